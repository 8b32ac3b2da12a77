"""`cff-export`: from a run folder to a bundle, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cff_edge.backbones import Backbone
from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME, save_head
from cff_edge.config import Config, load_config
from cff_edge.heads import Head
from cff_export import ExportSettings, cff_subject, exporter
from cff_export.cli import main
from cff_runtime import Bundle
from cff_runtime.errors import StorageError

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def run(
    vit_backbone: Backbone, vit_config: Config, make_head: Callable[..., Head], tmp_path: Path
) -> Path:
    """A finished run of a tiny vision transformer, written without training."""
    folder = tmp_path / "run"
    save_head(folder, make_head(vit_backbone, "affine"), vit_backbone.info, ["ring", "washer"])
    (folder / CONFIG_NAME).write_text(vit_config.to_toml())
    return folder


def _fails(capsys: Captured, arguments: list[str], exit_code: int = 1) -> str:
    """Run, check that there is one line of error and no data, and return it."""
    assert main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def _edit(run: Path, old: str, new: str) -> None:
    text = (run / CONFIG_NAME).read_text()
    assert text.count(old) == 1
    (run / CONFIG_NAME).write_text(text.replace(old, new))


def test_a_run_becomes_a_bundle(
    run: Path,
    tmp_path: Path,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
    make_head: Callable[..., Head],
    exported: Callable[..., object],
) -> None:
    out = tmp_path / "bundle"
    options = ["--text-names", " bottle, ,metal_nut", "--text-weight", "0.3"]
    assert main([str(run), "--out", str(out), *options]) == 0
    bundle = Bundle.open(out)
    manifest = bundle.manifest
    line = capsys.readouterr().out
    assert line.startswith(f"{out}  id {manifest.id[:12]}  parity: features ")
    assert line.endswith(", 0 verdict flips\n")
    assert manifest.condition.names == ("object", "bottle", "metal_nut")
    assert manifest.map.weight == 0.3
    assert manifest.head["trained_on"] == ["ring", "washer"]
    assert "note: random backbone weights: for latency and parity only" in caplog.text
    assert "parity gate: ONNX Runtime against PyTorch" in caplog.text
    # the same head, exported without the command line
    api: Bundle = exported("vit", "affine").bundle  # type: ignore[attr-defined]
    assert bundle.file(manifest.encoder).read_bytes() == api.file(manifest.encoder).read_bytes()
    assert "must not exist yet" in _fails(capsys, [str(run), "--out", str(out)], 2)


def test_a_folder_without_a_run_exits_with_2(run: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    for folder in (tmp_path / "absent", tmp_path):
        line = _fails(capsys, [str(folder), *out], 2)
        assert "must be a finished training run" in line
        assert "`cff-train`" in line
    (run / HEAD_NAME).unlink()
    assert "must be a finished training run" in _fails(capsys, [str(run), *out], 2)
    assert not (tmp_path / "bundle").exists()


def test_damaged_files_of_a_run_are_errors(run: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    head = (run / HEAD_NAME).read_bytes()
    (run / HEAD_NAME).write_bytes(head[:-1000])
    assert "head.safetensors` must be a checkpoint of cff-train" in _fails(capsys, [str(run), *out])
    (run / HEAD_NAME).write_bytes(head)
    config = (run / CONFIG_NAME).read_text()
    (run / CONFIG_NAME).write_text(config + "\nnot toml")
    assert "config.toml` must be TOML" in _fails(capsys, [str(run), *out], 2)
    (run / CONFIG_NAME).write_text(config.replace("seed =", "sede ="))
    assert "did you mean `train.seed`" in _fails(capsys, [str(run), *out], 2)
    assert not (tmp_path / "bundle").exists()


def test_changed_weights_are_refused(run: Path, tmp_path: Path, capsys: Captured) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    _edit(run, "seed = 1\n", "seed = 2\n")  # of the random weights
    line = _fails(capsys, [str(run), *out])
    assert "backbone `weights_sha256` must be" in line
    assert "give the weights that the run was trained with" in line
    assert "must be 'random', the path of a file" in _fails(
        capsys, [str(run), *out, "--weights", "/absent.pt"], 2
    )
    assert not (tmp_path / "bundle").exists()


def test_another_calibrator_than_trained_is_refused(
    run: Path, tmp_path: Path, capsys: Captured
) -> None:
    _edit(run, 'calibrator = "affine"', 'calibrator = "mlp"')
    line = _fails(capsys, [str(run), "--out", str(tmp_path / "bundle")])
    assert "`head.safetensors` must fit its configuration" in line


def test_moved_weights_can_be_named(
    run: Path,
    vit_backbone: Backbone,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint of the same weights passes under another name."""
    name = vit_backbone.info.name.removeprefix("open_clip:")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = open_clip.create_model(name)
    save_file(model.state_dict(), tmp_path / "moved.safetensors")
    seen: list[tuple[Any, ...]] = []

    def stop(*arguments: Any) -> None:
        seen.append(arguments)
        raise StorageError("far enough")

    monkeypatch.setattr(exporter, "export_bundle", stop)
    arguments = [str(run), "--out", str(tmp_path / "bundle")]
    arguments += ["--weights", str(tmp_path / "moved.safetensors"), "--replace"]
    assert _fails(capsys, arguments) == "error: far enough"
    backbone, _, config, out, settings, products, images = seen[0]
    assert backbone.info.weights == "file:moved.safetensors"
    assert backbone.info.weights_sha256 == vit_backbone.info.weights_sha256
    assert config == load_config(run / CONFIG_NAME)
    assert (out, products, images) == (tmp_path / "bundle", ("ring", "washer"), ())
    assert settings == ExportSettings((), None, replace=True)


@pytest.mark.parametrize("weight", ["-1", "nan"])
def test_impossible_text_weights_exit_with_2(
    run: Path, tmp_path: Path, capsys: Captured, weight: str
) -> None:
    arguments = [str(run), "--out", str(tmp_path / "bundle"), f"--text-weight={weight}"]
    assert "`text_weight` must be 0 or more" in _fails(capsys, arguments, 2)


def test_missing_packages_are_one_sentence(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cff_export.exporter", None)
    line = _fails(capsys, [str(tmp_path), "--out", str(tmp_path / "bundle")])
    assert "exporting needs a package that is not installed" in line
    assert "install cff-edge[export] with pip" in line


def test_interruption_exits_with_130(
    run: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cff_subject, "encode_reference", interrupt)
    assert main([str(run), "--out", str(tmp_path / "bundle")]) == 130
    assert "interrupted; what was not finished was not written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "onnx_ir", "open_clip")
    code = (
        "import sys, json\nfrom cff_export.cli import main\ntry: main(['--help'])\n"
        f"except SystemExit: print(json.dumps([m for m in {heavy} if m in sys.modules]), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == []
    assert "--replace" in done.stdout
