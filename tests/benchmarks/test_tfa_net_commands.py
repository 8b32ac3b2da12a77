"""`cff-bench tfa-net`: its commands, what they cost, figures of cells by hand, refusals."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cff_bench import cli
from cff_bench.tfa_net import accuracy, document, training
from cff_bench.tfa_net.accuracy import judge_networks, rows_of
from cff_bench.tfa_net.costs import Costs
from cff_bench.tfa_net.settings import METRICS, NETWORKS, TfaNetSettings
from cff_bench.tfa_net.training import train_networks
from cff_edge.checkpoint import CONFIG_NAME, LOG_NAME, write_tensors
from cff_edge.config import load_config
from cff_edge.evaluation.cells import CellResult
from cff_edge.metrics import METRIC_NAMES
from cff_runtime import Bundle
from cff_runtime.errors import CffError, UsageError

NAMES = ["tfa-net", "untrained", "untrained-plain"]
METHODS = ["cff", *NAMES]


def words_of(line: Sequence[str], option: str) -> list[str]:
    """Return what follows every occurrence of an option, up to the next option."""
    found, taking = [], False
    for word in line[1:]:
        if word.startswith("--"):
            taking = word == option
        elif taking:
            found.append(word)
    return found


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def data(draw_part: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products in MVTec AD layout: 5 normals, 3 good and 3 defective test parts each."""
    root: Path = tmp_path_factory.mktemp("data") / "parts"
    bar = np.zeros((120, 150), np.uint8)
    bar[52:60, 80:115] = 255
    for number, product in enumerate(("ring", "washer")):
        for kind, n_images in (("train/good", 5), ("test/good", 3), ("test/bar", 3)):
            for index in range(n_images):
                pixels = draw_part(100 * number + 10 * len(kind) + index, kind == "test/bar")
                save(pixels, root / product / kind / f"{index:03}.png")
        for index in range(3):
            save(bar, root / product / "ground_truth" / "bar" / f"{index:03}_mask.png")
    return root


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> TfaNetSettings:
    command = ("cff-bench", "tfa-net")
    return TfaNetSettings(
        data, ("ring", "washer"), tmp_path / "out", tmp_path / "cff", epochs=3, command=command
    )


# --- commands


class Recorder:
    """Stands in for `run`: keeps command lines and leaves the files that the next ones need."""

    def __init__(self, lite_bundle: Bundle) -> None:
        self.lines: list[list[str]] = []
        self.one_thread: list[bool] = []
        self.bundle = lite_bundle.path
        self.stop_after: int | None = None

    def __call__(self, command: Sequence[object], one_thread: bool = False) -> str:
        line = [str(word) for word in command]
        self.lines.append(line)
        self.one_thread.append(one_thread)
        out = Path(*words_of(line, "--out"))
        if line[0] == "cff-train":
            self._train(line, out)
        elif line[0] == "cff-export":
            out.parent.mkdir(parents=True, exist_ok=True)
            if not out.exists():
                out.symlink_to(self.bundle, target_is_directory=True)
        return ""

    def _train(self, line: list[str], out: Path) -> None:
        """Log the epochs that are missing, the loss being 1 / epoch."""
        config = load_config(None, words_of(line, "--set"), words_of(line, "--preset")[0])
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG_NAME).write_text(config.to_toml())
        log = out / LOG_NAME
        done = len(log.read_text().splitlines()) if log.exists() else 0
        last = config.tfa.epochs if self.stop_after is None else self.stop_after
        with log.open("a") as file:
            for epoch in range(done + 1, last + 1):
                record = {"epoch": epoch, "loss": 1 / epoch, "held_out_loss": 2 / epoch}
                file.write(json.dumps(record) + "\n")
        if last < config.tfa.epochs:
            raise CffError("`cff-train` failed with exit code 1, see above")
        tensors = {
            "embedding.weight": torch.zeros(3, 4),
            "embedding.bias": torch.zeros(5),
            "channel_mean": torch.zeros(100),
            "channel_std": torch.zeros(100),
        }
        facts = {"products": ["x"], "template": {"name": "004.png"}, "n_normals": 5}
        write_tensors(out / "model.safetensors", tensors, {**facts, "n_held_out": 1})

    def named(self, command: str) -> list[list[str]]:
        return [line for line in self.lines if line[0] == command]


@pytest.fixture
def recorder(lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(lite_bundle)
    monkeypatch.setattr(training, "run", recorder)
    monkeypatch.setattr(accuracy, "run", recorder)
    return recorder


def test_every_product_has_three_networks(settings: TfaNetSettings, recorder: Recorder) -> None:
    train_networks(settings)
    trained = recorder.named("cff-train")
    folders = [Path(*words_of(line, "--out")).relative_to(settings.out) for line in trained]
    expected = [f"{p}/{n}/run" for p in ("ring", "washer") for n in NAMES]
    assert [folder.as_posix() for folder in folders] == expected
    for line, folder in zip(trained, folders, strict=True):
        config = load_config(None, words_of(line, "--set"), "tfa-net")
        is_trained = folder.parts[1] == "tfa-net"
        plain = folder.parts[1] == "untrained-plain"
        assert words_of(line, "--preset") == ["tfa-net"]
        assert words_of(line, "--products") == [folder.parts[0]]
        assert words_of(line, "--data") == [str(settings.data)]
        assert config.tfa.epochs == (3 if is_trained else 0)
        assert config.tfa.feature_norm == ("none" if plain else "channels")
        assert "--resume" not in line
    exported = [(line[1], *words_of(line, "--out")) for line in recorder.named("cff-export")]
    assert exported == [
        (str(settings.out / folder), str(settings.out / folder.with_name("bundle")))
        for folder in folders
    ]
    assert not any(recorder.one_thread)


def test_without_epochs_the_presets_are_taken(settings: TfaNetSettings) -> None:
    preset = load_config(None, (), "tfa-net")
    assert replace(settings, epochs=None).config_of(NETWORKS[0]) == preset
    assert preset.tfa.epochs > 0


def test_what_is_finished_is_not_made_again(settings: TfaNetSettings, recorder: Recorder) -> None:
    first = train_networks(settings)
    recorder.lines.clear()
    assert train_networks(settings) == first
    assert recorder.lines == []
    bundle = settings.bundle("ring", "untrained")
    bundle.unlink()
    train_networks(settings)
    assert [words_of(line, "--out") for line in recorder.lines] == [[str(bundle)]]


def test_an_interrupted_training_goes_on_and_its_cost_is_of_both(
    settings: TfaNetSettings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0.0, 60.0)
    monkeypatch.setattr("cff_bench.tfa_net.costs._children_cpu_s", lambda: next(clock))
    recorder.stop_after = 1
    with pytest.raises(CffError):
        train_networks(settings)
    recorder.stop_after = None
    facts = train_networks(settings)
    assert ["--resume" in line for line in recorder.named("cff-train")[:3]] == [False, True, False]
    ring = facts["products"][0]
    assert ring["cpu_minutes"] == pytest.approx(2.0)  # a minute each
    assert (ring["n_epochs"], ring["n_epochs_measured"]) == (3, 3)
    assert ring["losses"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert ring["held_out_losses"] == pytest.approx([2, 1, 2 / 3])


def test_facts_of_training(
    settings: TfaNetSettings, recorder: Recorder, lite_bundle: Bundle
) -> None:
    facts = train_networks(settings)
    ring = facts["products"][0]
    assert ring["n_parameters"] == 3 * 4 + 5  # statistics are not trained
    assert (ring["n_normals"], ring["n_held_out"], ring["template"]) == (5, 1, "004.png")
    assert ring["bundle_id"] == lite_bundle.manifest.id
    assert facts["config"]["tfa"]["epochs"] == 3
    assert "data" not in facts["config"]
    assert str(settings.out) not in json.dumps(facts)


def test_a_run_with_other_settings_is_refused(settings: TfaNetSettings, recorder: Recorder) -> None:
    train_networks(settings)
    with pytest.raises(UsageError, match="section `tfa` differs; give another `--out`"):
        train_networks(replace(settings, epochs=4))


def test_an_unknown_product_is_refused_before_anything_runs(
    settings: TfaNetSettings, recorder: Recorder
) -> None:
    with pytest.raises(UsageError, match="did you mean 'washer'"):
        train_networks(replace(settings, products=("ring", "wascher")))
    assert recorder.lines == []


# --- costs


def test_costs_are_summed_and_lost_epochs_told(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "costs.jsonl"
    costs = Costs(path)
    assert costs.total("train/a") is None
    path.parent.mkdir()
    lines = [
        {"step": "train/a", "epochs": [0, 4], "cpu_s": 10.0, "wall_s": 20.0},
        {"step": "train/b", "epochs": [0, 9], "cpu_s": 99.0, "wall_s": 99.0},
        {"step": "train/a", "epochs": [7, 9], "cpu_s": 1.5, "wall_s": 2.5},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": "train/a", "epo'
    path.write_text(text)
    found = costs.total("train/a")
    assert found is not None
    assert (found.cpu_s, found.wall_s, found.n_epochs) == (11.5, 22.5, 6)


def test_a_failing_command_leaves_its_cost(tmp_path: Path) -> None:
    costs, epochs = Costs(tmp_path / "costs.jsonl"), iter([2, 5])
    with pytest.raises(CffError), costs.of("train/a", lambda: next(epochs)):
        raise CffError("no")
    found = costs.total("train/a")
    assert found is not None
    assert found.n_epochs == 3
    assert found.cpu_s >= 0 and 0 <= found.wall_s < 60


# --- accuracy


def make_cell(method: str, product: str, k: int, seed: int) -> CellResult:
    """Return a cell whose values are drawn, the same for the same arguments."""
    rng = np.random.default_rng([*map(ord, f"{method}/{product}"), k, seed])
    labels = np.arange(8) % 2 == 1
    return CellResult(
        method=method,
        dataset="parts",
        product=product,
        k=k,
        seed=seed,
        image_score="std" if method in NAMES else "peak",
        metrics=dict(zip(METRIC_NAMES, rng.uniform(0.3, 1.0, len(METRIC_NAMES)), strict=True)),
        references=tuple(f"{product}/train/good/{seed}{index}.png" for index in range(k)),
        images=tuple(f"{product}/test/{index}.png" for index in range(8)),
        defects=tuple("bar" if label else "good" for label in labels),
        labels=tuple(bool(label) for label in labels),
        scores=tuple(rng.uniform(0.0, 1.0, 8) + (method == "tfa-net") * labels),
        seconds=2.0,
        provenance={"command": ["cff-eval", "--data", "/home/somebody/data"], "warnings": []},
        positive=(rng.integers(0, 5, (8, 8)) * labels[:, None]).astype(np.uint32),
        negative=rng.integers(1, 50, (8, 8)).astype(np.uint32),
    )


def make_cells(products: Sequence[str] = ("ring", "washer")) -> list[CellResult]:
    combinations = itertools.product(METHODS, products, (1, 4), range(3))
    return [make_cell(*combination) for combination in combinations]


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_means_deviations_and_worst_draws(metric: str) -> None:
    cells = make_cells()
    rows = list(rows_of(cells, ["washer", "ring"]))
    expected = itertools.product(("washer", "ring"), (1, 4), METHODS)
    assert [(row["product"], row["k"], row["method"]) for row in rows] == list(expected)
    for row in rows:
        own = (row["method"], row["product"], row["k"])
        values = [c.metrics[metric] for c in cells if (c.method, c.product, c.k) == own]
        assert row["n_draws"] == len(values) == 3
        mean = sum(values) / 3
        deviation = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
        assert row[metric]["mean"] == pytest.approx(mean, abs=1e-12)
        assert row[metric]["std"] == pytest.approx(deviation, abs=1e-12)
        assert row[metric]["worst"] == min(values)


def test_a_single_draw_has_no_deviation() -> None:
    (row,) = rows_of([make_cell("cff", "ring", 1, 0)], ["ring"])
    assert row["pixel_ap"]["std"] is None


def auroc(cell: CellResult) -> float:
    """Compare every defective image with every good one."""
    pairs = itertools.product(
        (s for s, label in zip(cell.scores, cell.labels, strict=True) if label),
        (s for s, label in zip(cell.scores, cell.labels, strict=True) if not label),
    )
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))


@pytest.fixture
def judged(
    settings: TfaNetSettings, recorder: Recorder, lite_bundle: Bundle
) -> tuple[TfaNetSettings, dict[str, Any]]:
    """What is told of cells that are made up."""
    settings = replace(settings, cff=lite_bundle.path, seeds=3)
    train_networks(settings)
    others = [("cff", "ring", 4, 3), ("cff", "ring", 2, 0), ("cff", "ring", 5, 1)]
    with_all = [(m, p, 5, 0) for m in ("cff", "tfa-net") for p in ("ring", "washer")]
    for cell in [*make_cells(), *(make_cell(*which) for which in (*others, *with_all))]:
        cell.save(settings.evaluation(cell.product))
    recorder.lines.clear()
    return settings, judge_networks(settings)


def test_all_are_judged_with_the_same_references(
    judged: tuple[TfaNetSettings, dict[str, Any]], recorder: Recorder
) -> None:
    settings, _ = judged
    named = [words_of(line, "--products")[0] for line in recorder.lines]
    assert named == ["ring", "ring", "washer", "washer"]
    for number, line in enumerate(recorder.lines):
        names = ["tfa-net"] if number % 2 else NAMES
        bundles = [f"{name}={settings.bundle(named[number], name)}" for name in names]
        assert line[0] == "cff-eval"
        assert words_of(line, "--method") == [f"cff={settings.cff}", *bundles]
        assert words_of(line, "--shots") == (["5"] if number % 2 else ["1,4"])
        assert words_of(line, "--seeds") == (["1"] if number % 2 else ["3"])
        assert words_of(line, "--pool") == ["train"]


def test_cells_of_other_settings_do_not_count(
    judged: tuple[TfaNetSettings, dict[str, Any]],
) -> None:
    _, facts = judged
    assert len(facts["cells"]) == 4 * 2 * 2 * 3 + 2 * 2
    assert facts["products"][0] == {"product": "ring", "n_images": 8, "n_defective": 4}
    draws = {(row["k"], row["n_draws"]) for row in facts["rows"]}
    assert draws == {(1, 3), (4, 3), (5, 1)}
    assert "/home/somebody" not in json.dumps(facts)


def test_differences_are_the_trained_network_minus_another(
    judged: tuple[TfaNetSettings, dict[str, Any]],
) -> None:
    _, facts = judged
    assert len(facts["differences"]) == 2 * (3 * 2 + 1) * 3  # products, others x K, metrics
    for d in facts["differences"]:
        if d["metric"] == "image_auroc":
            seeds = range(1 if d["k"] == 5 else 3)
            own, other = (
                np.mean([auroc(make_cell(m, d["product"], d["k"], seed)) for seed in seeds])
                for m in ("tfa-net", d["minus"])
            )
            assert own == 1.0
            assert d["mean"] == pytest.approx(own - other, abs=1e-9)
            assert d["low"] <= d["mean"] <= d["high"]
            assert d["n_cells"] == len(seeds)


@pytest.mark.parametrize("part", ["accuracy", "latency"])
def test_a_missing_bundle_is_one_sentence(
    settings: TfaNetSettings, lite_bundle: Bundle, part: str
) -> None:
    settings = replace(settings, cff=lite_bundle.path, parts=(part,))
    with pytest.raises(UsageError, match=r"must be a bundle of the part `training`, it is missing"):
        document.run(settings)


# --- refusals of the command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "latncy"], "`--only` must be of training, accuracy, latency, got 'latncy'"),
        (["--products", ","], "`--products` must name at least one product"),
        (["--shots", "1,x"], "`--shots` must be numbers"),
        (["--shots", "0"], "must be at least 1, got [0]"),
        (["-n", "0"], "must be at least 1"),
        (["--epochs", "-1"], "must not be negative"),
        (["--set", "tfa.wdth=3"], "did you mean `tfa.width`"),
        (["--precisions", "fp32,fp16"], "must be of fp32, int8, which a CPU computes, got fp16"),
        (["--cff", "nowhere"], "`nowhere` must be a bundle"),
    ],
)
def test_wrong_options_are_one_sentence(
    words: list[str],
    message: str,
    data: Path,
    tmp_path: Path,
    recorder: Recorder,
    lite_bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fixed = ["--data", str(data), "--products", "ring", "--out", str(tmp_path / "out")]
    fixed += ["--cff", str(lite_bundle.path)]
    assert cli.main(["tfa-net", *fixed, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert recorder.lines == []
