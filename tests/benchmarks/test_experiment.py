"""The experiment's commands: who is trained on what, judged on what; then a small one for real."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cff_bench import cli
from cff_bench.demo import commands
from cff_bench.experiment import pipeline, report
from cff_bench.experiment.pipeline import Experiment
from cff_bench.experiment.protocol import ON_REFERENCES, ROWS, Row
from cff_edge import cli as train_cli
from cff_edge.config import Config, load_config
from cff_edge.evaluation import cli as eval_cli
from cff_edge.evaluation.cells import load_results
from cff_runtime.errors import CffError, UsageError

REAL_SETS = ("mvtec_mini", "piped", "ballscrew", "fabric_hsst", "deeppcb", "hazelnut_toy")
JUDGED = ("mvtec_mini", "piped", "ballscrew", "fabric_hsst", "hazelnut_toy", "synthetic")
# run folder -> data sets that it must not have seen; written by hand from docs/experiment.md
MAIN_ROWS = ("projectors", "affine", "mlp", "affine-episodes")
ALIGNED_ROWS = ("align-0.0", "align-0.05", "align-0.2", "align-0.5")
UNTRAINED = {"untrained/raw", "untrained/raw-log"}
TEST_RUNS = {
    *UNTRAINED,
    *(f"all/{name}" for name in (*MAIN_ROWS, *ALIGNED_ROWS)),
    *(f"without-{data}/{name}" for data in ("piped", "ballscrew") for name in MAIN_ROWS[:2]),
    "all/align-references/bolt",
    "all/align-references/nut",
}
DEVELOPMENT_RUNS = {
    *UNTRAINED,
    *(f"{seen}/{name}" for name in MAIN_ROWS[:2] for seen in ("all", "without-fabric_hsst")),
    *(f"without-synthetic/{name}" for name in MAIN_ROWS[:2]),
}


def words_of(line: Sequence[str], option: str) -> list[str]:
    """Return what follows every occurrence of an option, up to the next option."""
    found, taking = [], False
    for word in line[1:]:
        if word.startswith("--"):
            taking = word == option
        elif taking:
            found.append(word)
    return found


def settings_of(line: Sequence[str]) -> Config:
    return load_config(None, words_of(line, "--set"))


class Recorder:
    """Stands in for `run`: keeps command lines and leaves the files that the next ones need."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []
        self.one_thread: list[bool] = []
        self.failing = ""
        self.delay: Callable[[Path], None] = lambda folder: None

    def __call__(self, command: Sequence[object], one_thread: bool = False) -> str:
        line = [str(word) for word in command]
        self.lines.append(line)
        self.one_thread.append(one_thread)
        folder = Path(*words_of(line, "--out"))
        if self.failing and str(folder).endswith(self.failing):
            raise CffError(f"`{line[0]}` failed with exit code 1, see above")
        if line[0] == "cff-train":
            self.delay(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.toml").touch()
            (folder / "head.safetensors").touch()
        elif "--method" not in line:
            self._draw(line, folder)
        return ""

    def _draw(self, line: list[str], folder: Path) -> None:
        """Write lists longer than any K, of other images for every draw."""
        (root,) = words_of(line, "--data")
        products = sorted(path.name for path in Path(root).iterdir())
        draws = {
            product: {
                str(seed): [f"{product}/train/good/{seed}{index}.png" for index in range(6)]
                for seed in range(int(words_of(line, "--seeds")[0]))
            }
            for product in products
        }
        fields = {"schema": 1, "pool": "good", "datasets": {Path(root).name: draws}}
        folder.mkdir(parents=True)
        (folder / "references.json").write_text(json.dumps(fields))

    def named(self, command: str) -> list[list[str]]:
        return [line for line in self.lines if line[0] == command]

    @property
    def judgements(self) -> list[list[str]]:
        return [line for line in self.named("cff-eval") if "--method" in line]

    @property
    def draws(self) -> list[list[str]]:
        return [line for line in self.named("cff-eval") if "--method" not in line]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(pipeline, "run", recorder)
    return recorder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the right names, two products each, whose images nobody opens."""
    root = tmp_path / "data"

    def write(folder: Path) -> None:
        for product in ("bolt", "nut"):
            (folder / product / "test" / "good").mkdir(parents=True)
            (folder / product / "test" / "good" / "0.png").touch()

    for name in REAL_SETS:
        write(root / name)
    monkeypatch.setattr(pipeline, "write_synthetic_dataset", write)
    monkeypatch.setenv("CFF_DATA", str(root))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def finished(data: Path, out: Path, recorder: Recorder) -> Recorder:
    experiment = Experiment(data, out, jobs=1)
    experiment.develop()
    experiment.test()
    return recorder


def run_of(line: list[str], out: Path) -> tuple[str, str]:
    """Return the name of the method and its run, relative to the folder of runs."""
    name, _, folder = words_of(line, "--method")[0].partition("=")
    return name, Path(folder).relative_to(out / "runs").as_posix()


def data_of(line: list[str]) -> list[str]:
    return [Path(word).name for word in words_of(line, "--data")]


class TestCommands:
    def test_no_head_is_judged_on_a_data_set_that_it_was_trained_on(
        self, finished: Recorder, out: Path
    ) -> None:
        trained = {}
        for line in finished.named("cff-train"):
            run = Path(*words_of(line, "--out")).relative_to(out / "runs").as_posix()
            trained[run] = (set(data_of(line)), settings_of(line))
        judged: dict[str, int] = Counter()
        for line in finished.judgements:
            (name,) = data_of(line)
            _, run = run_of(line, out)
            seen, config = trained[run]
            learns = config.train.projector_epochs > 0 or config.head.calibrator != "none"
            assert learns == (run not in UNTRAINED)
            assert not learns or name not in seen, line
            judged[name] += 1
        assert set(judged) == set(JUDGED)
        assert all(n_methods >= 4 for n_methods in judged.values())

    def test_a_head_is_trained_on_everything_that_it_may_see(
        self, finished: Recorder, data: Path, out: Path
    ) -> None:
        everything = ["piped", "fabric_hsst", "ballscrew", "deeppcb", "synthetic"]
        for line in finished.named("cff-train"):
            seen = Path(*words_of(line, "--out")).relative_to(out / "runs").parts[0]
            left_out = seen.removeprefix("without-")
            assert data_of(line) == [name for name in everything if name != left_out]
            assert settings_of(line).data.max_per_product == 24
            for word in words_of(line, "--data"):
                real = Path(word).name != "synthetic"
                assert Path(word).parent == (data if real else out / "data")

    def test_every_run_is_trained_once(self, finished: Recorder, out: Path) -> None:
        folders = [Path(*words_of(line, "--out")) for line in finished.named("cff-train")]
        runs = Counter(folder.relative_to(out / "runs").as_posix() for folder in folders)
        assert set(runs) == TEST_RUNS | DEVELOPMENT_RUNS
        assert set(runs.values()) == {1}

    def test_the_test_needs_no_development(self, data: Path, out: Path, recorder: Recorder) -> None:
        Experiment(data, out, jobs=1).test()
        folders = [Path(*words_of(line, "--out")) for line in recorder.named("cff-train")]
        assert sorted(f.relative_to(out / "runs").as_posix() for f in folders) == sorted(TEST_RUNS)

    def test_rows_are_trained_with_their_overrides(self, finished: Recorder, out: Path) -> None:
        lines = {
            Path(*words_of(line, "--out")).relative_to(out / "runs").as_posix(): line
            for line in finished.named("cff-train")
        }
        for row in ROWS:
            if not row.run:
                runs = [run for run in lines if Path(run).name == row.name]
                assert runs
                for run in runs:
                    expected = (*row.training, "data.max_per_product=24")
                    assert words_of(lines[run], "--set") == list(expected)

    def test_every_row_is_judged_on_the_main_set(self, finished: Recorder, out: Path) -> None:
        lines = {run_of(line, out)[0]: line for line in finished.judgements if is_main(line, out)}
        assert list(lines) == [row.name for row in (*ROWS, ON_REFERENCES)]
        for row in ROWS:
            line = lines[row.name]
            folder = "untrained" if row.name in ("raw", "raw-log") else "all"
            assert run_of(line, out)[1] == f"{folder}/{row.run or row.name}"
            assert words_of(line, "--set") == list(row.evaluation)
            assert words_of(line, "--shots") == ["1,2,4"]
            assert "--products" not in line
            assert "--seeds" not in line

    @pytest.mark.parametrize("name", ["piped", "ballscrew"])
    def test_four_rows_are_judged_on_the_other_test_sets(
        self, finished: Recorder, out: Path, name: str
    ) -> None:
        lines = [line for line in finished.judgements if data_of(line) == [name]]
        assert [run_of(line, out) for line in lines] == [
            ("raw", "untrained/raw"),
            ("raw-log", "untrained/raw-log"),
            ("projectors", f"without-{name}/projectors"),
            ("affine", f"without-{name}/affine"),
        ]
        piped = "paper_bdp01_tl,paper_brg02_rl,paper_fvn01_tl,paper_zpb01_rl"
        for line in lines:
            assert words_of(line, "--out") == [str(out / "test" / name)]
            assert words_of(line, "--shots") == ["4"]
            assert words_of(line, "--products") == ([piped] if name == "piped" else [])

    def test_text_weights_are_judged_on_the_development_sets(
        self, finished: Recorder, out: Path
    ) -> None:
        for name in ("fabric_hsst", "hazelnut_toy", "synthetic"):
            lines = [line for line in finished.judgements if data_of(line) == [name]]
            seen = "all" if name == "hazelnut_toy" else f"without-{name}"
            expected = [("raw", "untrained/raw", []), ("raw-log", "untrained/raw-log", [])]
            expected += [
                (f"{row}-text-{weight}", f"{seen}/{row}", [f"head.text_weight={weight}"])
                for row in ("projectors", "affine")
                for weight in (0.0, 0.1, 0.3, 1.0)
            ]
            assert [(*run_of(line, out), words_of(line, "--set")) for line in lines] == expected
            assert {words_of(line, "--out")[0] for line in lines} == {
                str(out / "development" / name)
            }

    def test_all_rows_of_a_data_set_share_its_draws(self, finished: Recorder, out: Path) -> None:
        drawn = {}
        for line in finished.draws:
            (name,) = data_of(line)
            drawn[name] = Path(*words_of(line, "--out")) / "references.json"
            assert words_of(line, "--pool") == ["good"]
            assert words_of(line, "--shots") == ["1,2,4"]
            n_seeds = "5" if name in ("mvtec_mini", "piped", "ballscrew") else "3"
            assert words_of(line, "--seeds") == [n_seeds]
        assert len(finished.draws) == len(drawn) == len(JUDGED)
        for line in finished.judgements:
            (name,) = data_of(line)
            assert words_of(line, "--references") == [str(drawn[name])]

    def test_alignment_on_references_sees_the_first_draw_alone(
        self, finished: Recorder, data: Path, out: Path
    ) -> None:
        for product in ("bolt", "nut"):
            run = out / "runs" / "all" / "align-references" / product
            (line,) = (
                line
                for line in finished.named("cff-train")
                if words_of(line, "--out") == [str(run)]
            )
            config = settings_of(line)
            assert config.train.align_on == "references"
            assert config.data.align_references == tuple(
                str(data / "mvtec_mini" / product / "train" / "good" / f"0{index}.png")
                for index in range(4)
            )
            (judged,) = (
                line
                for line in finished.judgements
                if words_of(line, "--method") == [f"align-references={run}"]
            )
            assert words_of(judged, "--products") == [product]
            assert words_of(judged, "--shots") == ["4"]
            assert words_of(judged, "--seeds") == ["1"]
            assert is_main(judged, out)

    @pytest.mark.parametrize("row", [*ROWS, ON_REFERENCES], ids=lambda row: row.name)
    def test_rows_are_valid_configurations(self, row: Row) -> None:
        extra = ['data.align_references=["a.png"]'] if row is ON_REFERENCES else []
        config = load_config(None, [*row.training, *extra])
        judged = load_config(None, [*row.training, *row.evaluation, *extra])
        if row.name in ("raw", "april-gan"):  # as published
            assert judged.head.distance == "cosine"
        if row.name == "affine":  # the tables call it the default
            assert (config, judged) == (load_config(), load_config())
        assert not (row.run and row.training)
        assert row.run in {"", *(other.name for other in ROWS if not other.run)}


def is_main(line: list[str], out: Path) -> bool:
    main = out / "test" / "mvtec_mini"
    return data_of(line) == ["mvtec_mini"] and words_of(line, "--out") == [str(main)]


class TestGoingOn:
    def test_finished_runs_and_draws_are_kept(
        self, finished: Recorder, data: Path, out: Path
    ) -> None:
        judgements = finished.judgements
        finished.lines.clear()
        again = Experiment(data, out, jobs=1)
        again.develop()
        again.test()
        assert finished.lines == judgements  # cff-eval itself keeps finished cells

    def test_an_interrupted_run_is_continued(
        self, finished: Recorder, data: Path, out: Path
    ) -> None:
        assert not any("--resume" in line for line in finished.lines)
        finished.lines.clear()
        run = out / "runs" / "without-piped" / "affine"
        (run / "head.safetensors").unlink()
        Experiment(data, out, jobs=1).test()
        (line,) = finished.named("cff-train")
        assert words_of(line, "--out") == [str(run)]
        assert "--resume" in line

    def test_half_a_synthetic_data_set_is_drawn_again(
        self, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = pipeline.write_synthetic_dataset

        def interrupted(folder: Path) -> None:
            (folder / "bolt").mkdir(parents=True)
            raise KeyboardInterrupt

        monkeypatch.setattr(pipeline, "write_synthetic_dataset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Experiment(data, out, jobs=1)
        drawn = []

        def draw(folder: Path) -> None:
            drawn.append(folder)
            whole(folder.with_name("fresh"))
            (folder.with_name("fresh") / "nut").rename(folder / "nut")

        monkeypatch.setattr(pipeline, "write_synthetic_dataset", draw)
        experiment = Experiment(data, out, jobs=1)
        assert len(drawn) == 1
        assert (experiment.roots["synthetic"] / "nut").is_dir()
        Experiment(data, out, jobs=1)
        assert len(drawn) == 1

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_commands_side_by_side_do_not_share_a_run(
        self, data: Path, out: Path, recorder: Recorder, jobs: int
    ) -> None:
        second = threading.Event()
        inside: list[Path] = []

        def wait_for_a_second(folder: Path) -> None:
            """Give another thread time to begin the same run."""
            if folder.name == "raw":
                inside.append(folder)
                if len(inside) > 1:
                    second.set()
                second.wait(0.3 if jobs > 1 else 0.0)

        recorder.delay = wait_for_a_second
        Experiment(data, out, jobs).test()
        assert inside == [out / "runs" / "untrained" / "raw"]
        assert set(recorder.one_thread) == {jobs > 1}
        folders = [words_of(line, "--out")[0] for line in recorder.named("cff-train")]
        assert len(folders) == len(set(folders)) == len(TEST_RUNS)


class TestRefusals:
    @pytest.mark.parametrize("name", REAL_SETS)
    def test_a_missing_data_set(self, data: Path, out: Path, name: str) -> None:
        (data / name).rename(data / "elsewhere")
        with pytest.raises(UsageError, match=rf"^`CFF_DATA` must hold the data set `{name}`, .*"):
            Experiment(data, out, jobs=1)

    @pytest.mark.parametrize("value", [None, "", "{}/absent"])
    def test_no_real_images(
        self,
        data: Path,
        out: Path,
        value: str | None,
        recorder: Recorder,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.delenv("CFF_DATA")
        if value is not None:
            monkeypatch.setenv("CFF_DATA", value.format(data))
        assert cli.main(["experiment", "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: `CFF_DATA` must ")
        assert captured.err.count("\n") == 1
        assert recorder.lines == []

    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_a_failing_command_ends_it(
        self,
        data: Path,
        out: Path,
        jobs: str,
        recorder: Recorder,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        recorder.failing = "without-fabric_hsst/affine"
        results = out / "results"
        arguments = ["experiment", "--out", str(out), "--results", str(results), "--jobs", jobs]
        assert cli.main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "error: `cff-train` failed with exit code 1, see above\n" in captured.err
        assert "Traceback" not in captured.err
        assert not recorder.named("cff-eval")
        assert not results.exists()

    def test_jobs_must_be_positive(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["experiment", "--jobs", "0"])
        assert "must be at least 1, got 0" in capsys.readouterr().err


def test_one_thread_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "show_threads.py").write_text("import os\nprint(os.environ['OMP_NUM_THREADS'])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setitem(commands._MODULE_OF, "cff-run", "show_threads")
    assert commands.run(["cff-run"]) == "7\n"
    assert commands.run(["cff-run"], one_thread=True) == "1\n"


def _in_this_process(command: Sequence[object], one_thread: bool = False) -> str:
    """Run a command line without the seconds that a process takes to import PyTorch."""
    name, *arguments = map(str, command)
    main = {"cff-train": train_cli.main, "cff-eval": eval_cli.main}[name]
    if main(arguments) != 0:
        raise CffError(f"`{name}` failed")
    return ""


def _write_set(root: Path, products: Sequence[str], draw_part: Callable[..., Any]) -> None:
    """Draw data sets of seven parts a product, the defect's mask where `draw_part` puts it."""
    bar = np.zeros((120, 150), np.uint8)
    bar[52:60, 80:115] = 255
    for number, product in enumerate(products):
        seed = 100 * number + sum(map(ord, root.name))
        images = {"train/good": 2, "test/good": 3, "test/bar": 2}
        for folder, n_images in images.items():
            (root / product / folder).mkdir(parents=True)
            for index in range(n_images):
                seed += 1
                part = Image.fromarray(draw_part(seed, folder == "test/bar"))
                part.save(root / product / folder / f"{index}.png")
        masks = root / product / "ground_truth" / "bar"
        masks.mkdir(parents=True)
        for index in range(2):
            Image.fromarray(bar).save(masks / f"{index}_mask.png")


@pytest.fixture
def small_protocol(
    tmp_path: Path, draw_part: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Four rows at 96 px, one epoch, drawn data; return CFF_DATA."""
    small = ("backbone.image_size=96", "backbone.joint_dim=64", "train.device=cpu")
    small += ("train.calibrator_epochs=1",)

    def shrink(row: Row) -> Row:
        epochs = () if "train.projector_epochs=0" in row.training else ("train.projector_epochs=1",)
        return Row(row.name, row.label, (*row.training, *small, *epochs))

    rows = tuple(shrink(row) for row in ROWS if row.name in report.EVERYWHERE)
    constants: dict[str, Any] = {
        "ROWS": rows,
        "_ROW_OF": {row.name: row for row in rows},
        "ON_REFERENCES": shrink(ON_REFERENCES),
        "SHOTS": (1, 2),
        "N_SEEDS": 2,
        "DEVELOPMENT_SEEDS": 2,
        "TEXT_WEIGHTS": (0.0, 0.1),
        "TRAINING_SETS": ("piped", "synthetic"),
        "TEST_SETS": {"mvtec_mini": (), "piped": ()},
        "DEVELOPMENT_SETS": {"synthetic": ()},
    }
    for module in (pipeline, report):
        for name, value in constants.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(pipeline, "run", _in_this_process)
    monkeypatch.setattr(
        pipeline, "write_synthetic_dataset", lambda root: _write_set(root, ["disc"], draw_part)
    )
    root = tmp_path / "images"
    _write_set(root / "mvtec_mini", ["bolt", "nut"], draw_part)
    _write_set(root / "piped", ["pipe"], draw_part)
    monkeypatch.setenv("CFF_DATA", str(root))
    yield root


@pytest.mark.slow
def test_a_small_experiment_from_images_to_figures(
    small_protocol: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    arguments = ["experiment", "--out", str(out), "--results", str(results), "--jobs", "1"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    written = json.loads((results / "experiment.json").read_text())
    assert report.format_report(written) in printed
    cells = load_results(out / "test" / "mvtec_mini")
    cells += load_results(out / "test" / "piped")
    main = len(("bolt", "nut")) * len(report.EVERYWHERE) * 2 * 2  # K, draws
    piped = len(report.EVERYWHERE) * 2
    aligned = [cell for cell in cells if cell.method == "align-references"]
    assert sorted(cell.product for cell in aligned) == ["bolt", "nut"]
    assert len(cells) == len(written["cells"]) == main + piped + len(aligned)
    for cell in cells:
        trained_on = cell.provenance["method"]["trained_on"]
        unseen = cell.product not in trained_on or cell.method in ("raw", "raw-log")
        assert unseen, cell.cell
        assert not set(cell.references) & set(cell.images)
    training = written["training"]
    assert {run for run in training if not training[run]["epochs"]} == UNTRAINED
    assert str(tmp_path) not in (results / "experiment.json").read_text()
    # the same command again trains nothing, computes nothing and finds the same
    heads = {path: path.stat().st_mtime_ns for path in out.rglob("head.safetensors")}
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("k*_seed*.json")}
    assert cli.main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("head.safetensors")} == heads
    assert {path: path.stat().st_mtime_ns for path in out.rglob("k*_seed*.json")} == stamps
    again = json.loads((results / "experiment.json").read_text())
    assert {**again, "environment": {}} == {**written, "environment": {}}
