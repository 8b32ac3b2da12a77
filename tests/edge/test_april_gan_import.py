"""Published linear layers: what becomes of them, and which files and backbones are refused."""

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from torch import Tensor

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME, load_run, restore_head
from cff_edge.cli import main
from cff_edge.detector import Detector
from cff_edge.feature_cache import FeatureCache
from cff_edge.few_shot import FewShotDetector
from cff_export.cli import main as export_main
from cff_runtime import Bundle

Captured = pytest.CaptureFixture[str]
Layers = dict[str, Tensor]
SIZE_PX = 64
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": SIZE_PX,
        "layers": 4,
        "width": 48,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def models() -> Iterator[None]:
    """Make a small model known to open_clip, with either activation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setitem(factory._MODEL_CONFIGS, "tiny-import", MODEL)
        patch.setitem(
            factory._MODEL_CONFIGS, "tiny-import-quickgelu", {**MODEL, "quick_gelu": True}
        )
        assert "tiny-import" in open_clip.list_models()
        yield


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("open_clip:tiny-import", "random", SIZE_PX, seed=111)


def _layers() -> Layers:
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for n in range(4):
        layers[f"fc.{n}.weight"] = 0.1 * torch.randn(32, 48, generator=generator)
        layers[f"fc.{n}.bias"] = 0.1 * torch.randn(32, generator=generator)
    return layers


@pytest.fixture
def published(tmp_path: Path) -> Path:
    path = tmp_path / "visa_pretrained.pth"
    torch.save({"trainable_linearlayer": _layers()}, path)
    return path


def _call(file: Path, out: Path, *overrides: str, model: str = "tiny-import") -> list[str]:
    named = [f"backbone.name=open_clip:{model}", "backbone.weights=random"]
    sets = [*named, f"backbone.image_size={SIZE_PX}", *overrides]
    options = [part for override in sets for part in ("--set", override)]
    return ["--import-april-gan", str(file), "--out", str(out), *options]


def _fails(capsys: Captured, arguments: list[str], out: Path) -> str:
    assert main(arguments) == 2
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert not (out / HEAD_NAME).exists()
    assert not (out / CONFIG_NAME).exists()
    return line


def test_layers_become_the_projectors_of_a_run(
    published: Path, backbone: Backbone, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(_call(published, run)) == 0
    config, tensors, facts = load_run(run)
    assert (config.head.calibrator, config.head.bank, config.head.text_weight) == ("none", "raw", 1)
    assert config.head.distance == "cosine"
    assert (config.train.projector_epochs, config.train.calibrator_epochs) == (0, 0)
    assert facts["backbone"]["activation"] == "gelu"
    assert facts["imported"]["file"] == "visa_pretrained.pth"
    assert len(facts["imported"]["sha256"]) == 64
    assert facts["products"] == []
    head = restore_head(backbone, config, tensors, facts)
    layers = _layers()
    for n, projector in enumerate(head.projectors):
        assert torch.equal(projector.state_dict()["weight"], layers[f"fc.{n}.weight"])
        assert torch.equal(projector.state_dict()["bias"], layers[f"fc.{n}.bias"])


def test_an_imported_run_scores_and_exports(
    published: Path,
    backbone: Backbone,
    tmp_path: Path,
    good_parts: list[np.ndarray],
    bad_part: np.ndarray,
) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert main(_call(published, run)) == 0
    config, tensors, facts = load_run(run)
    head = restore_head(backbone, config, tensors, facts)
    cache = FeatureCache(tmp_path / "c", Detector(backbone, head).eval(), torch.device("cpu"))
    detector = FewShotDetector(backbone.info, head, config.head, backbone.text_vectors("ring"))
    detector.fit(cache.encode(good_parts)[0])
    output = detector.score(*cache.encode([bad_part]))
    assert output.maps.shape == (1, SIZE_PX, SIZE_PX)
    assert export_main([str(run), "--out", str(bundle)]) == 0
    manifest = Bundle.open(bundle).manifest
    assert (manifest.head["bank"], manifest.distance, manifest.map.weight) == (
        "raw",
        "cosine",
        1.0,
    )
    assert [stage.width for stage in manifest.stages] == [48] * 4


def test_half_precision_is_taken(published: Path, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in _layers().items()}
    torch.save({"trainable_linearlayer": halves}, published)
    assert main(_call(published, tmp_path / "run")) == 0
    tensors = load_run(tmp_path / "run")[1]
    assert tensors["projectors.2.bias"].dtype == torch.float32
    assert torch.equal(tensors["projectors.2.bias"], halves["fc.2.bias"].float())


def _changed(**changes: object) -> Callable[[], Any]:
    return lambda: {"trainable_linearlayer": {**_layers(), **changes}}


def _without(name: str) -> Callable[[], Any]:
    return lambda: {"trainable_linearlayer": {k: v for k, v in _layers().items() if k != name}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: _layers(), "must hold a dict with a state dict under 'trainable_linearlayer'"),
        (lambda: {"trainable_linearlayer": 3}, "must hold a dict with a state dict under"),
        (lambda: [1, 2], "must hold a dict with a state dict under"),
        (lambda: {"trainable_linearlayer": {}}, "got nothing; the backbone must tap as many"),
        (_without("fc.3.bias"), "must hold fc.0.bias, .*fc.3.weight, got fc.0.bias"),
        (_changed(**{"fc.4.bias": torch.zeros(32)}), "fc.3.weight, fc.4.bias; the backbone"),
        (_changed(**{"fc.1.bias": "text"}), "must hold a dict with a state dict under"),
        (_changed(**{"fc.1.weight": torch.zeros(48, 32)}), r"shape \(32, 48\), .* got \(48, 32\)"),
        (_changed(**{"fc.1.bias": torch.zeros(32).long()}), r"floating point, .* torch.int64"),
        (_changed(**{"fc.1.bias": torch.full((32,), np.nan)}), "`fc.1.bias` .* NaN or infinity"),
        (_changed(**{"fc.0.weight": torch.full((32, 48), np.inf)}), "must be finite"),
    ],
)
def test_other_content_is_refused(
    tmp_path: Path, capsys: Captured, content: Callable[[], Any], message: str
) -> None:
    path, out = tmp_path / "file.pth", tmp_path / "run"
    torch.save(content(), path)
    assert re.search(message, _fails(capsys, _call(path, out), out))


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def test_code_in_a_file_is_not_run(tmp_path: Path, capsys: Captured) -> None:
    path, out, marker = tmp_path / "file.pth", tmp_path / "run", tmp_path / "marker"
    for write in (
        lambda: torch.save({"trainable_linearlayer": {"fc.0.bias": _Malicious(marker)}}, path),
        lambda: path.write_bytes(pickle.dumps(_Malicious(marker), protocol=2)),
    ):
        write()
        line = _fails(capsys, _call(path, out), out)
        assert "it is damaged or holds more than tensors" in line
        assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "absent", "folder"])
def test_damaged_files_are_refused(
    published: Path, tmp_path: Path, capsys: Captured, damage: str
) -> None:
    out = tmp_path / "run"
    data = published.read_bytes()
    published.unlink()
    if damage == "folder":
        published.mkdir()
    elif damage != "absent":
        content = {"truncated": data[: len(data) // 2], "text": b"no weights", "empty": b""}
        published.write_bytes(content[damage])
    line = _fails(capsys, _call(published, out), out)
    absent = damage in ("absent", "folder")
    assert ("must be an existing file" if absent else "must be a file of APRIL-GAN's") in line


def test_quick_gelu_is_refused_with_the_reason(
    published: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "run"
    line = _fails(capsys, _call(published, out, model="tiny-import-quickgelu"), out)
    assert "must have plain GELU, because APRIL-GAN's published layers were trained on" in line
    assert "got quick_gelu" in line


@pytest.mark.parametrize("override", ["head.calibrator=affine", "head.bank=calibrated"])
def test_the_head_must_be_april_gans(
    published: Path, tmp_path: Path, capsys: Captured, override: str
) -> None:
    out = tmp_path / "run"
    line = _fails(capsys, _call(published, out, override), out)
    assert "`head.calibrator` must be none and `head.bank` raw" in line


def test_taps_must_be_as_many(published: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "run"
    line = _fails(capsys, _call(published, out, "backbone.taps=[2, 4]"), out)
    assert "must tap as many blocks" in line


def test_an_existing_run_is_kept(published: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(_call(published, tmp_path / "run")) == 0
    before = (tmp_path / "run" / HEAD_NAME).read_bytes()
    capsys.readouterr()
    assert main(_call(published, tmp_path / "run")) == 2
    assert "must be a new folder, it holds a run" in capsys.readouterr().err
    assert (tmp_path / "run" / HEAD_NAME).read_bytes() == before


@pytest.mark.parametrize("extra", [["--data", "x"], ["--write-meta", "x"]])
def test_an_import_reads_no_images(published: Path, capsys: Captured, extra: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*_call(published, Path("run")), *extra])
    assert "not allowed with argument" in capsys.readouterr().err
