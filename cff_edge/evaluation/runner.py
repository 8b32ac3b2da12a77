"""Computing cells: what is missing, one cell, all cells.

`run_cell` is a function of files alone and saves nothing, so that cells may be computed in any
order and by any process; `run_all` saves what comes back. How cells are handed out is an
`Executor`, one after the other here.
"""

import importlib.metadata
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cff_edge.datasets import Sample, load_mask
from cff_edge.evaluation.cells import PICTURES_FOLDER, Cell, CellResult
from cff_edge.evaluation.checks import check_files
from cff_edge.evaluation.context import Context
from cff_edge.evaluation.identity import FileHashes, inputs_hash
from cff_edge.evaluation.methods import Judgement, Method, Task, open_method
from cff_edge.evaluation.not_run import find_not_run
from cff_edge.evaluation.pictures import draw_pictures
from cff_edge.evaluation.references import judged_samples, relative_path
from cff_edge.metrics import collect_evidence, evaluate
from cff_runtime.errors import CffError, UsageError

log = logging.getLogger(__name__)

Executor = Callable[[Context, Sequence[Cell]], Iterator[CellResult]]
Progress = Callable[[CellResult], None]

_PACKAGES = (
    "cff-edge",
    "numpy",
    "onnxruntime",
    "open_clip_torch",
    "opencv-python",
    "pillow",
    "safetensors",
    "scikit-learn",
    "torch",
)


def plan(context: Context) -> list[Cell]:
    """Return the cells that are still to be computed.

    A cell is finished if its file stands in the folder of results and was made by the same method
    from the same references and test images. Methods are opened here, and the images of products
    with missing cells are checked, so that nothing fails hours later.

    Raises
    ------
    DatasetError
        If images or masks cannot be used, or a peer's predictions are missing.
    CffError
        If a method cannot be opened.
    """
    hashes = FileHashes()
    cells = applicable_cells(context)
    missing = [cell for cell in cells if not _is_finished(context, cell, hashes)]
    products = {(cell.dataset, cell.product) for cell in missing}
    samples = [
        sample
        for name, dataset in context.datasets.items()
        for sample in dataset.samples
        if (name, sample.product) in products
    ]
    if samples:
        check_files(samples)
    return missing


def applicable_cells(context: Context) -> list[Cell]:
    """Return the cells of all methods, without those that a peer says it could not run.

    Zero-shot cells are only of methods that can do without images.

    Raises
    ------
    UsageError
        If zero-shot is asked for and no method can.
    DatasetError
        If what a peer says is damaged.
    """
    not_run = {(entry.method, entry.dataset, entry.k) for entry in find_not_run(context)}
    cells = [c for c in context.cells() if (c.method, c.dataset, c.k) not in not_run]
    few_shot = [cell for cell in cells if cell.k > 0]
    if len(few_shot) == len(cells):
        return cells
    able = {
        method: any(
            _open(context, cell).facts(cell).get("zero_shot")
            for cell in cells
            if cell.k == 0 and cell.method == method
        )
        for method in {cell.method: None for cell in cells if cell.k == 0}
    }
    if not any(able.values()):
        raise UsageError(
            "`--shots` 0 is zero-shot, which needs a training run with a text tower, none of "
            f"{', '.join(able)} is one; leave 0 out"
        )
    for name, is_able in able.items():
        if not is_able:
            log.warning(
                "%s cannot be evaluated zero-shot: that takes a run with a text tower", name
            )
    return [cell for cell in cells if cell.k > 0 or able[cell.method]]


def run_cell(context: Context, cell: Cell, method: Method | None = None) -> CellResult:
    """Compute one cell from files; nothing but the feature cache is written.

    Parameters
    ----------
    context : Context
    cell : Cell
    method : Method, optional
        The cell's, if it is open already; loaded from its files if None.

    Raises
    ------
    CffError
        If the method, an image or a mask cannot be used.
    """
    started = time.perf_counter()
    if method is None:
        method = _open(context, cell)
    task, samples = make_task(context, cell)
    facts = method.facts(cell)
    judgement = method.judge(task)
    _check_judgement(cell, judgement, len(samples))
    height, width = judgement.maps.shape[1:]
    masks = np.stack([load_mask(sample, height, width) for sample in samples])
    labels = np.array([sample.is_defective for sample in samples])
    metrics = evaluate(labels, judgement.scores, masks, judgement.maps)
    evidence = collect_evidence(
        cell.product, cell.seed, task.images, labels, judgement.scores, masks, judgement.maps
    )
    pictures = {}
    if context.has_pictures(cell):
        pictures = draw_pictures(cell.method, samples, judgement.maps)
    return CellResult(
        method=cell.method,
        dataset=cell.dataset,
        product=cell.product,
        k=cell.k,
        seed=cell.seed,
        image_score=judgement.image_score,
        metrics=metrics.to_dict(),
        references=task.references,
        images=task.images,
        defects=tuple(sample.defect for sample in samples),
        labels=tuple(bool(label) for label in labels),
        scores=tuple(float(score) for score in judgement.scores),
        seconds=time.perf_counter() - started,
        provenance={
            "command": list(context.command),
            "versions": _versions(),
            "method": dict(facts),
            "warnings": warnings_of(facts, cell),
            "inputs": inputs_hash(task, samples, facts, FileHashes()),
        },
        positive=evidence.positive,
        negative=evidence.negative,
        pictures=pictures,
    )


def run_serially(context: Context, cells: Sequence[Cell]) -> Iterator[CellResult]:
    """Compute cells one after the other, in this process."""
    return (run_cell(context, cell) for cell in cells)


def run_all(
    context: Context,
    cells: Sequence[Cell],
    progress: Progress | None = None,
    execute: Executor = run_serially,
) -> None:
    """Compute cells and save each as soon as it is there.

    Parameters
    ----------
    context : Context
    cells : sequence of Cell
        What `plan` returned.
    progress : callable, optional
        Called with every result once it is saved.
    execute : callable, optional
        Computes cells, in any order; an interrupted run keeps those saved so far.

    Raises
    ------
    CffError
        If a cell fails or cannot be saved.
    """
    for result in execute(context, cells):
        result.save(context.out)
        if progress is not None:
            progress(result)


def collect(context: Context) -> list[CellResult]:
    """Read the results of all cells of a finished evaluation.

    Raises
    ------
    CffError
        If one is missing or damaged.
    """
    return [CellResult.load(context.out / cell.path) for cell in applicable_cells(context)]


def make_task(context: Context, cell: Cell) -> tuple[Task, list[Sample]]:
    """Return what the method gets to know of a cell, and the labelled test images."""
    dataset = context.datasets[cell.dataset]
    draw = context.references.of(cell.dataset, cell.product, cell.seed)[: context.n_references]
    samples = judged_samples(dataset, cell.product, draw)
    images = tuple(relative_path(dataset, sample) for sample in samples)
    return Task(cell, dataset.root, draw[: cell.k], images, context.image_score), samples


# by the split of the images that training saw
_TRAINED = {
    "test": "the head was trained on test images of {}",
    "train": "the network was trained on good parts of {}, and references may be among them",
}


def warnings_of(facts: Mapping[str, Any], cell: Cell) -> list[str]:
    """Return what a reader of the figures must know."""
    warnings = []
    if cell.product in facts.get("trained_on", ()):
        seen = _TRAINED.get(str(facts.get("trained_split")), _TRAINED["test"])
        warnings.append(seen.format(cell.product))
    if facts.get("weights") == "random":
        warnings.append("random backbone weights: the figures mean nothing")
    if facts.get("text_name", cell.product) != cell.product:
        warnings.append(
            f"the bundle has no text vectors of {cell.product}, those of {facts['text_name']} "
            "stand in"
        )
    return warnings


def _open(context: Context, cell: Cell) -> Method:
    return open_method(context.method(cell.method), context.cache)


def _is_finished(context: Context, cell: Cell, hashes: FileHashes) -> bool:
    facts = _open(context, cell).facts(cell)
    path = context.out / cell.path
    if not path.is_file():
        return False
    try:
        result = CellResult.load(path)
    except CffError as error:
        log.warning("%s; it is computed again", error)
        return False
    if context.has_pictures(cell):
        folder = context.out / PICTURES_FOLDER / cell.dataset / cell.product
        if not any(folder.glob(f"*_{cell.method}.png")):
            return False
    task, samples = make_task(context, cell)
    return bool(result.provenance.get("inputs") == inputs_hash(task, samples, facts, hashes))


def _check_judgement(cell: Cell, judgement: Judgement, n_images: int) -> None:
    """Refuse what would end in a meaningless figure."""
    maps, scores = judgement.maps, judgement.scores
    if maps.ndim != 3 or len(maps) != n_images or scores.shape != (n_images,):
        raise CffError(
            f"{cell}: the method must give one map and one score for each of {n_images} images, "
            f"got {maps.shape} and {scores.shape}"
        )
    if not (np.isfinite(maps).all() and np.isfinite(scores).all()):
        raise CffError(f"{cell}: maps and scores must be finite, got NaN or infinity")


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
