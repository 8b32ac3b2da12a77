"""Drift of precisions: figures against hand-made answers and a direct run, errors, exit codes."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench import cli
from cff_bench.demo.evaluation import choose_references
from cff_bench.precision import drift
from cff_bench.precision.drift import DriftSettings, Outcome, format_drift, run_drift
from cff_bench.precision.runnable import AS_IT_IS, EMULATED, runnable
from cff_edge.datasets import read_dataset
from cff_export.precision import build_candidate
from cff_export.variants import extend_bundle
from cff_runtime import Bundle, Inspector
from cff_runtime.backends.cpu_session import CpuSession
from cff_runtime.errors import BundleError, DatasetError, UsageError
from cff_runtime.manifest import Variant

DrawPart = Callable[..., NDArray[np.uint8]]
BAR = (slice(52, 60), slice(80, 115))  # of `draw_part`'s defect
N_GOOD, N_BAD = 3, 2


@pytest.fixture(scope="module")
def half_bundle(lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle with an fp16 encoder; read-only."""
    out = tmp_path_factory.mktemp("half") / "bundle"
    bundle, (outcome,) = extend_bundle(lite_bundle.path, out, ["fp16"])
    assert not outcome.refused
    return bundle


@pytest.fixture(scope="module")
def data(draw_part: DrawPart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products in MVTec AD layout: 2 references, 3 good and 2 defective test parts each."""
    root = tmp_path_factory.mktemp("data") / "rings"
    for number, product in enumerate(("large", "small")):
        folders = {"train/good": 2, "test/good": N_GOOD, "test/bar": N_BAD}
        for seed, (folder, n) in enumerate(folders.items(), 10 * number):
            for index in range(n):
                pixels = draw_part(100 * seed + index, defective=folder.endswith("bar"))
                save(pixels, root / product / folder / f"{index}.png")
        mask = np.zeros(pixels.shape[:2], np.uint8)
        mask[BAR] = 255
        for index in range(N_BAD):
            save(mask, root / product / "ground_truth" / "bar" / f"{index}_mask.png")
    return root


def save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pairs_in_order(good: Sequence[float], bad: Sequence[float]) -> float:
    """Image AUROC by counting."""
    pairs = [(b > g) + 0.5 * (b == g) for b in bad for g in good]
    return float(np.mean(pairs))


# --- what is computed


def test_fp32_runs_as_it_is(half_bundle: Bundle) -> None:
    with runnable(half_bundle) as (bundle, computed):
        assert bundle is half_bundle
        assert computed == AS_IT_IS


def test_a_graph_without_float16_runs_as_it_is(lite_bundle: Bundle) -> None:
    manifest = lite_bundle.manifest
    variant = Variant(manifest.encoder, "id", (), {}, {})
    view = dataclasses.replace(manifest, variants={"int8": variant}).view("int8")
    given = Bundle(lite_bundle.path, view)
    with runnable(given) as (bundle, computed):
        assert bundle is given
        assert computed == AS_IT_IS


def test_fp16_runs_through_its_emulation_which_is_removed(half_bundle: Bundle) -> None:
    view = half_bundle.view("fp16")
    with runnable(view) as (bundle, computed):
        assert computed == EMULATED
        assert bundle.manifest.id == view.manifest.id
        folder = bundle.path
        assert folder != half_bundle.path
        graph = ir.load(bundle.file(bundle.manifest.encoder)).graph
        types = [node.attributes["to"].as_int() for node in graph if node.op_type == "Cast"]
        assert types.count(ir.DataType.FLOAT16) >= view.manifest.variants["fp16"].facts["n_casts"]
        assert graph.inputs[0].dtype == ir.DataType.UINT8
    assert not folder.exists()
    Bundle.open(half_bundle.path, "fp16")  # and the bundle is as it was


def test_fp16_gives_what_the_exporter_judged(
    half_bundle: Bundle, tmp_path: Path, good_parts: list[NDArray[np.uint8]]
) -> None:
    text = half_bundle.condition_of_word("object")
    source = half_bundle.file(half_bundle.manifest.encoder)
    built = build_candidate("fp16", source, tmp_path, (), None, text)
    image = half_bundle.manifest.preprocessing(good_parts[0])

    def features(graph: Path) -> list[NDArray[np.float32]]:
        names = [f"features_{stage}" for stage in range(len(half_bundle.manifest.stages))]
        return list(CpuSession(graph).run(names, {"image": image[None], "text": text}))

    view = half_bundle.view("fp16")
    with runnable(view) as (bundle, _):
        found = features(bundle.file(bundle.manifest.encoder))
    expected = features(built.runnable)
    dropped = features(view.file(view.manifest.encoder))  # ONNX Runtime's float16, not rounded
    for stage, (a, b, c) in enumerate(zip(found, expected, dropped, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"stage {stage}")
        assert np.abs(a - c).max() > 1e-4


def test_a_graph_without_types_is_refused(half_bundle: Bundle, tmp_path: Path) -> None:
    view = half_bundle.view("fp16").manifest
    model = ir.load(half_bundle.path / view.encoder)
    next(node for node in model.graph if node.op_type == "Conv").outputs[0].type = None
    ir.save(model, tmp_path / view.encoder)
    with (
        pytest.raises(BundleError, match="must have its type in the file"),
        runnable(Bundle(tmp_path, view)),
    ):
        pass


# --- what is reported


def test_report_holds_what_a_direct_run_gives(half_bundle: Bundle, data: Path) -> None:
    settings = DriftSettings(half_bundle.path, data, shots=2, command=("cff-bench", "precision"))
    report = json.loads(json.dumps(run_drift(settings)))

    fp32, fp16 = report["precisions"]
    assert (fp32["precision"], fp16["precision"]) == ("fp32", "fp16")
    assert (fp32["computed"], fp16["computed"]) == (AS_IT_IS, EMULATED)
    assert (fp32["graph"], fp16["graph"]) == ("encoder.fp32.onnx", "encoder.fp16.onnx")
    assert fp32["minus_fp32"] == {"image_auroc_points": 0.0, "pixel_auroc_points": 0.0}
    assert fp32["score_max_diff"] == 0.0
    assert fp32["flips"] == []
    assert 0 < fp16["score_max_diff"] < 0.05
    assert report["command"] == ["cff-bench", "precision"]
    assert report["data"]["n_test_images"] == 2 * (N_GOOD + N_BAD)
    assert report["passed"]

    dataset = read_dataset(data)
    inspector = Inspector.open(half_bundle.path)
    for entry in fp32["products"]:
        product = entry["product"]
        profile = inspector.enroll(choose_references(dataset, product, 2), product)
        folder = data / product / "test"
        good = [inspector.inspect(path, profile).score for path in (folder / "good").iterdir()]
        bad = [inspector.inspect(path, profile).score for path in (folder / "bar").iterdir()]
        assert entry["image_auroc"] == pytest.approx(pairs_in_order(good, bad))
        assert entry["threshold"] == pytest.approx(profile.threshold.value)
        assert entry["n_rejected"] == sum(score > profile.threshold.value for score in good + bad)
        assert entry["points_per_pair"] == pytest.approx(100 / (N_GOOD * N_BAD))
        assert 0.8 < entry["pixel_auroc"] <= 1.0


def outcome(scores: list[float], threshold: float, pixel_auroc: float) -> Outcome:
    """Return answers for the test parts of a product: two defective ones, three good ones."""
    image_auroc = pairs_in_order(scores[N_BAD:], scores[:N_BAD])
    values = np.array(scores)
    metrics = {"image_auroc": image_auroc, "pixel_auroc": pixel_auroc}
    return Outcome(values, values > threshold, threshold, threshold - 0.1, metrics)


FP32 = outcome([0.9, 0.8, 0.1, 0.2, 0.3], 0.5, 0.90)
ANSWERS = {
    "fp32": {"large": FP32, "small": FP32},
    # in `small` a good part overtakes a defective one and is rejected: 1 of 6 pairs, 16.7 points
    "fp16": {"large": FP32, "small": outcome([0.9, 0.55, 0.1, 0.2, 0.6], 0.5, 0.8964)},
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(view: Bundle, *_: object) -> tuple[dict[str, Outcome], str]:
        return ANSWERS[view.manifest.precision], AS_IT_IS

    monkeypatch.setattr(drift, "_judge", judge)


@pytest.mark.usefixtures("planted")
def test_figures_of_planted_answers(half_bundle: Bundle, data: Path) -> None:
    report = run_drift(DriftSettings(half_bundle.path, data, shots=2))

    entry = report["precisions"][1]
    assert entry["means"]["image_auroc"] == pytest.approx((1 + 5 / 6) / 2)
    assert entry["minus_fp32"]["image_auroc_points"] == pytest.approx(-100 / 12)
    assert entry["minus_fp32"]["pixel_auroc_points"] == pytest.approx(-0.18)
    assert entry["score_max_diff"] == pytest.approx(0.3)
    assert entry["score_shift"] == pytest.approx(0.3 / 0.4)
    assert [product["n_flips"] for product in entry["products"]] == [0, 1]
    (flip,) = entry["flips"]
    assert flip == {
        "image": "small/test/good/2.png",
        "is_defective": False,
        "verdict": "reject",
        "score": 0.6,
        "threshold": 0.5,
        "verdict_fp32": "pass",
        "score_fp32": 0.3,
        "threshold_fp32": 0.5,
    }
    assert not report["passed"]
    text = format_drift(report)
    assert "fp16: reject, fp32: pass: small/test/good/2.png" in text
    assert "fp16: mean image auroc differs by -8.333 points, at most 0.2 may be" in text
    assert "mean pixel auroc" not in text


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(("limit", "code"), [("8", 1), ("9", 0)])
def test_exit_code_follows_the_limit(
    half_bundle: Bundle,
    data: Path,
    tmp_path: Path,
    limit: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "drift.json"
    arguments = ["precision", "drift", str(half_bundle.path), "--data", str(data), "--shots", "2"]
    arguments += ["--max-auroc-points", limit, "--json", str(path)]
    assert cli.main(arguments) == code
    report: dict[str, Any] = json.loads(path.read_text())
    assert report["passed"] == (code == 0)
    assert report["command"] == ["cff-bench", *arguments]
    assert "image AUROC" in capsys.readouterr().out


# --- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"shots": 0}, UsageError, "`--shots` must be at least 1"),
        ({"max_auroc_points": float("nan")}, UsageError, "`--max-auroc-points` 0 or more"),
        ({"products": ("lage",)}, UsageError, "did you mean 'large'"),
        ({"shots": 3}, DatasetError, "`large` must have 3 good training images, got 2"),
        ({"data": Path("/nothing")}, UsageError, "must be an existing folder"),
    ],
)
def test_wrong_settings_are_refused(
    half_bundle: Bundle,
    data: Path,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    settings = dataclasses.replace(DriftSettings(half_bundle.path, data, shots=2), **change)
    with pytest.raises(error, match=message):
        run_drift(settings)


def test_a_bundle_of_fp32_alone_has_nothing_to_compare(lite_bundle: Bundle, data: Path) -> None:
    with pytest.raises(UsageError, match="must hold a precision besides fp32"):
        run_drift(DriftSettings(lite_bundle.path, data))


def test_a_product_needs_good_and_defective_test_parts(half_bundle: Bundle, data: Path) -> None:
    with pytest.raises(DatasetError, match="`train` must have good and defective test images"):
        run_drift(DriftSettings(half_bundle.path, data / "large" / "train"))


def test_without_data_the_environment_variable_is_named(
    half_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CFF_DATA", raising=False)
    assert cli.main(["precision", "drift", str(half_bundle.path)]) == 2
    assert capsys.readouterr().err.startswith("error: `CFF_DATA` must name")
