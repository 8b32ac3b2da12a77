"""Runs the experiment: train every row, evaluate every row, write the figures down.

Everything is resumable: a finished run is not trained again, a finished cell not computed again.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

from tqdm import tqdm

from cff_bench.demo.commands import run
from cff_bench.demo.synthetic import write_synthetic_dataset
from cff_bench.experiment.protocol import (
    BASELINE,
    DEFAULT,
    DEVELOPMENT_SEEDS,
    DEVELOPMENT_SETS,
    EVERYWHERE,
    MAIN_SET,
    MAX_PER_PRODUCT,
    N_SEEDS,
    ON_REFERENCES,
    POOL,
    PROJECTORS,
    ROWS,
    SHOTS,
    SYNTHETIC,
    TEST_SETS,
    TEXT_WEIGHTS,
    TRAINING_SETS,
    Row,
)
from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME
from cff_edge.datasets import read_dataset
from cff_edge.evaluation.references import REFERENCES_NAME, ReferenceLists
from cff_runtime.errors import UsageError

Job = Callable[[], object]
_ROW_OF = {row.name: row for row in ROWS}


class Experiment:
    """Folders and commands of one experiment.

    Parameters
    ----------
    data : Path
        Folder of the real data sets, CFF_DATA.
    out : Path
        Folder for runs, features and cells.
    jobs : int
        Commands side by side, one thread each.

    Raises
    ------
    UsageError
        If a data set is missing.
    """

    def __init__(self, data: Path, out: Path, jobs: int) -> None:
        self.out = out
        self.jobs = jobs
        synthetic = out / "data" / SYNTHETIC
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)  # data sets share untrained runs
        names = {*TRAINING_SETS, *TEST_SETS, *DEVELOPMENT_SETS}
        self.roots = {name: synthetic if name == SYNTHETIC else data / name for name in names}
        for name, root in sorted(self.roots.items()):
            if name != SYNTHETIC and not root.is_dir():
                raise UsageError(
                    f"`CFF_DATA` must hold the data set `{name}`, `{data}` does not; "
                    "name the folder that holds it"
                )
        if not synthetic.is_dir():
            partial_copy = synthetic.with_suffix(".partial")
            write_synthetic_dataset(partial_copy)
            partial_copy.rename(synthetic)

    @property
    def results(self) -> Path:
        """Folder of the test sets' cells."""
        return self.out / "test"

    @property
    def development(self) -> Path:
        """Folder of the development sets' cells."""
        return self.out / "development"

    def develop(self) -> None:
        """Judge projectors and default, at several text weights, on the development sets."""
        raw = [(_ROW_OF[name], name, ()) for name in (BASELINE, "raw-log")]
        weighted = [
            (_ROW_OF[name], f"{name}-text-{weight}", (f"head.text_weight={weight}",))
            for name in (PROJECTORS, DEFAULT)
            for weight in TEXT_WEIGHTS
        ]
        self._side_by_side(
            partial(self._train, row, name)
            for name in DEVELOPMENT_SETS
            for row, _, _ in (*raw, weighted[0], weighted[-1])
        )
        for name, products in DEVELOPMENT_SETS.items():
            self._draw(self.development / name, name, products, DEVELOPMENT_SEEDS)
        self._side_by_side(
            partial(self._judge, self.development / data, data, products, *method)
            for data, products in DEVELOPMENT_SETS.items()
            for method in (*raw, *weighted)
        )

    def test(self) -> None:
        """Train every row and judge it on the test sets."""
        jobs = [
            (row, data)
            for data in TEST_SETS
            for row in ROWS
            if data == MAIN_SET or row.name in EVERYWHERE
        ]
        self._side_by_side(partial(self._train, row, data) for row, data in jobs if not row.run)
        for data, products in TEST_SETS.items():
            self._draw(self.results / data, data, products, N_SEEDS)
        self._side_by_side(
            partial(
                self._judge,
                self.results / data,
                data,
                TEST_SETS[data],
                row,
                row.name,
                row.evaluation,
            )
            for row, data in jobs
        )
        products = read_dataset(self.roots[MAIN_SET]).products
        self._side_by_side(partial(self._judge_on_references, name) for name in products)

    def run_folder(self, row: Row, data: str) -> Path:
        """Folder of the run that is judged on a data set, and so has not seen it."""
        seen = f"without-{data}" if data in TRAINING_SETS else "all"
        name = row.run or row.name
        return self.out / "runs" / ("untrained" if _is_raw(row) else seen) / name

    def _train(self, row: Row, data: str, name: str = "", extra: Sequence[str] = ()) -> Path:
        """Train the row that is to be judged on a data set, unless that has been done."""
        folder = self.run_folder(row, data) / name
        with self._locks[str(folder)]:
            if (folder / HEAD_NAME).is_file():
                return folder
            roots = [self.roots[other] for other in TRAINING_SETS if other != data or _is_raw(row)]
            overrides = (*row.training, f"data.max_per_product={MAX_PER_PRODUCT}", *extra)
            settings = [word for override in overrides for word in ("--set", override)]
            resume = ["--resume"] if (folder / CONFIG_NAME).exists() else []
            cache = ["--cache", self.out / "cache"]
            self._run(["cff-train", "--data", *roots, "--out", folder, *cache, *settings, *resume])
        return folder

    def _draw(self, out: Path, data: str, products: Sequence[str], n_seeds: int) -> None:
        """Draw the references that every row of a data set is judged with."""
        if not (out / REFERENCES_NAME).is_file():
            arguments = ["--data", self.roots[data], "--out", out, "--shots", _comma(SHOTS)]
            drawn = ["--pool", POOL, "--seeds", n_seeds, *_products(products)]
            self._run(["cff-eval", *arguments, *drawn])

    def _judge(
        self,
        out: Path,
        data: str,
        products: Sequence[str],
        row: Row,
        name: str,
        evaluation: Sequence[str],
    ) -> None:
        shots = SHOTS if data == MAIN_SET else SHOTS[-1:]
        self._evaluate(
            out, data, f"{name}={self.run_folder(row, data)}", evaluation, shots, products
        )

    def _judge_on_references(self, product: str) -> None:
        """Train and judge a row that is aligned on a product's first draw of references."""
        out = self.results / MAIN_SET
        lists = ReferenceLists.load(out / REFERENCES_NAME)
        draw = lists.of(MAIN_SET, product, 0)[: SHOTS[-1]]
        paths = json.dumps([str(self.roots[MAIN_SET] / name) for name in draw], ensure_ascii=False)
        extra = [f"data.align_references={paths}"]
        folder = self._train(ON_REFERENCES, MAIN_SET, product, extra)
        method = f"{ON_REFERENCES.name}={folder}"
        self._evaluate(out, MAIN_SET, method, (), SHOTS[-1:], [product], ["--seeds", 1])

    def _evaluate(
        self,
        out: Path,
        data: str,
        method: str,
        overrides: Sequence[str],
        shots: Sequence[int],
        products: Sequence[str],
        more: Sequence[object] = (),
    ) -> None:
        settings = [word for override in overrides for word in ("--set", override)]
        arguments = ["--data", self.roots[data], "--out", out, "--shots", _comma(shots)]
        drawn = ["--references", out / REFERENCES_NAME, *_products(products)]
        cache = ["--cache", self.out / "cache", "--method", method]
        self._run(["cff-eval", *arguments, *drawn, *cache, *settings, *more])

    def _run(self, command: Sequence[object]) -> None:
        run(command, one_thread=self.jobs > 1)

    def _side_by_side(self, jobs: Iterable[Job]) -> None:
        """Run jobs, as many at once as there may be; the first failure ends the experiment."""
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in tqdm(futures, desc="steps", unit="step", disable=None):
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _is_raw(row: Row) -> bool:
    return "train.projector_epochs=0" in row.training


def _products(names: Sequence[str]) -> list[str]:
    return ["--products", ",".join(names)] if names else []


def _comma(values: Sequence[int]) -> str:
    return ",".join(str(value) for value in values)
