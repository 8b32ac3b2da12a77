"""`cff-train`: what it prints and refuses, and the way on to `cff-export` and `cff-run`."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cff_edge.training as training
from cff_edge.backbones import load_backbone
from cff_edge.checkpoint import CONFIG_NAME, HEAD_NAME, LOG_NAME, read_tensors
from cff_edge.cli import main
from cff_edge.config import load_config
from cff_edge.run_state import RunState
from cff_export.cli import main as export_main
from cff_runtime.cli import main as run_main

SMALL = [
    *("--set", "backbone.image_size=64", "--set", "backbone.joint_dim=32"),
    *("--set", "train.projector_epochs=1", "--set", "train.calibrator_epochs=1"),
    *("--set", "train.batch_size=4", "--set", "train.device=cpu"),
]
Captured = pytest.CaptureFixture[str]


def _fails(capsys: Captured, arguments: list[str], exit_code: int = 1) -> str:
    """Run, check that there is one line of error and no data, and return it."""
    assert main(arguments) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by the command line."""
    out: Path = tmp_path_factory.mktemp("cli") / "run"
    data = ["--data", str(tiny_dataset), "--exclude", "washer"]
    assert main([*data, "--out", str(out), *SMALL]) == 0
    return out


def test_train_export_enroll_inspect(
    run: Path, tiny_dataset: Path, tmp_path: Path, capsys: Captured
) -> None:
    bundle, profile = tmp_path / "bundle", tmp_path / "washer.profile.safetensors"
    assert export_main([str(run), "--out", str(bundle), "--text-weight", "0"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{bundle}  id ")
    assert "0 verdict flips" in out
    assert "Traceback" not in err
    good = tiny_dataset / "washer" / "train" / "good"
    product = ["--product", "washer", "--out", str(profile), "--json"]
    assert run_main(["enroll", str(bundle), str(good), *product]) == 0
    assert json.loads(capsys.readouterr().out)["n_references"] == 2
    images = [str(tiny_dataset / "washer" / "test" / kind) for kind in ("good", "bar")]
    shown = ["--profile", str(profile), "--json"]
    assert run_main(["inspect", str(bundle), *images, *shown]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["image"].split("/")[-2] for result in results] == ["good"] * 2 + ["bar"] * 2
    assert max(r["score"] for r in results[:2]) < min(r["score"] for r in results[2:])
    assert [result["verdict"] for result in results[2:]] == ["reject", "reject"]


def test_run_folder_holds_what_it_says(run: Path, tiny_dataset: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {HEAD_NAME, CONFIG_NAME, LOG_NAME, "state.safetensors", "cache"}
    config = load_config(run / CONFIG_NAME)
    assert config.data.roots == (str(tiny_dataset),)
    assert config.data.exclude == ("washer",)
    phases = [json.loads(line)["phase"] for line in (run / LOG_NAME).read_text().splitlines()]
    assert phases == ["projectors", "calibrators"]


def test_lists_of_products_are_split(capsys: Captured) -> None:
    options = ["--products", " a, b ,,", "--exclude", "c", "--data", "x", "/ä/😀 y", "--out", "o"]
    assert main([*options, "--print-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert 'products = [\n    "a",\n    "b",\n]' in out
    assert "/ä/😀 y" in out
    assert not Path("o").exists()


def test_printed_configuration_reads_back(tmp_path: Path, capsys: Captured) -> None:
    options = ["--out", "o", "--set", "backbone.name=open_clip:ViT-B-16", "--print-config"]
    assert main(options) == 0
    path = tmp_path / "config.toml"
    path.write_text(capsys.readouterr().out)
    assert main(["--config", str(path), "--out", "o", "--print-config"]) == 0
    assert capsys.readouterr().out == path.read_text()
    assert load_config(path).backbone.image_size == 518


def test_presets_by_name(tmp_path: Path, capsys: Captured) -> None:
    options = ["--preset", "april-gan-mvtec", "--out", "o", "--set", "train.seed=7"]
    assert main([*options, "--print-config"]) == 0
    path = tmp_path / "config.toml"
    path.write_text(capsys.readouterr().out)
    assert load_config(path) == load_config(None, ["train.seed=7"], "april-gan-mvtec")
    with pytest.raises(SystemExit, match="2"):
        main(["--preset", "april-gan", "--out", "o"])
    assert "april-gan-visa" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.align_on=references"], "`data.align_references` must name images"),
        ([], "`--data` must name at least one data set"),
        (["--data", "/absent"], "`/absent` must be an existing folder"),
        (["--set", "train.epochs=3"], "`train.epochs` must be known"),
        (["--set", "train.seed"], "`--set` must be section.key=value"),
        (["--config", "/absent.toml"], "`/absent.toml` must be a readable file"),
        (["--set", "head.calibrator=linear"], "must be one of none, affine, mlp"),
    ],
)
def test_wrong_calls_exit_with_2(
    tmp_path: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    assert message in _fails(capsys, ["--out", str(tmp_path / "run"), *arguments], 2)
    assert not (tmp_path / "run").exists()


def test_unknown_products_and_backbones_exit_with_2(
    tiny_dataset: Path, tmp_path: Path, capsys: Captured
) -> None:
    data = ["--data", str(tiny_dataset), "--out", str(tmp_path / "run")]
    assert "got 'screw'" in _fails(capsys, [*data, "--products", "screw"], 2)
    named = [*data, "--set", "backbone.name=resnet50"]
    assert "`name` must be a backbone" in _fails(capsys, named, 2)
    assert not (tmp_path / "run").exists()


def test_argparse_errors_exit_with_2(capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--data", "x"])
    assert "--out" in capsys.readouterr().err


def test_an_empty_folder_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "data").mkdir()
    arguments = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert "data` must hold images" in _fails(capsys, arguments)
    assert not (tmp_path / "run").exists()


def _without_a_mask(root: Path) -> None:
    (root / "ring" / "ground_truth" / "bar" / "001_mask.png").unlink()


def _with_two_masks(root: Path) -> None:
    masks = root / "ring" / "ground_truth" / "bar"
    shutil.copy(masks / "001_mask.png", masks / "001.png")


def _without_defects(root: Path) -> None:
    for product in ("ring", "washer"):
        shutil.rmtree(root / product / "test" / "bar")
        shutil.rmtree(root / product / "ground_truth")


def _without_good_parts(root: Path) -> None:
    for product in ("ring", "washer"):
        shutil.rmtree(root / product / "test" / "good")


def _with_a_broken_image(root: Path) -> None:
    (root / "ring" / "test" / "good" / "002.png").write_bytes(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_a_mask, r"test/bar/001.png` must have a mask"),
        (_with_two_masks, "image '001' must have one mask"),
        (_without_defects, "needs normal and defective images"),
        (_without_good_parts, "needs normal and defective images"),
        (_with_a_broken_image, "test/good/002.png` must be a readable PNG"),
    ],
)
def test_unfit_data_is_an_error(
    write_dataset: Callable[[Path], Path],
    tmp_path: Path,
    capsys: Captured,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    root = write_dataset(tmp_path / "data")
    damage(root)
    arguments = ["--data", str(root), "--out", str(tmp_path / "run"), *SMALL]
    assert message in _fails(capsys, arguments)
    assert not (tmp_path / "run" / HEAD_NAME).exists()


def test_an_existing_run_and_nothing_to_resume_exit_with_2(
    run: Path, tiny_dataset: Path, tmp_path: Path, capsys: Captured
) -> None:
    data = ["--data", str(tiny_dataset), "--exclude", "washer", *SMALL]
    assert "it holds a run" in _fails(capsys, [*data, "--out", str(run)], 2)
    absent = str(tmp_path / "absent")
    assert "to resume" in _fails(capsys, [*data, "--out", absent, "--resume"], 2)
    other = [*data, "--out", str(run), "--resume", "--set", "train.seed=1"]
    assert "configuration it was started with" in _fails(capsys, other)


def test_interrupting_and_resuming(
    run: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    data = ["--data", str(tiny_dataset), "--exclude", "washer", "--cache", str(run / "cache")]
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "log", _interrupt)
        assert main([*data, "--out", str(out), *SMALL]) == 130
    assert "interrupted; continue with --resume" in capsys.readouterr().err
    # the configuration alone is enough to continue
    again = ["--config", str(out / CONFIG_NAME), "--out", str(out), "--cache", str(run / "cache")]
    assert main([*again, "--resume"]) == 0
    assert (out / HEAD_NAME).read_bytes() == (run / HEAD_NAME).read_bytes()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_missing_packages_are_one_sentence(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cff_edge.training", None)
    line = _fails(capsys, ["--out", str(tmp_path), "--data", "x"])
    assert "training needs a package that is not installed" in line
    assert "install cff-edge[train] with pip" in line


def test_random_weights_are_called_so(
    tiny_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[Any, ...]] = []

    def record(*arguments: object) -> None:
        made.append(arguments)

    monkeypatch.setattr(training, "train", record)
    options = ["--set", "backbone.weights=random", "--set", "train.seed=5"]
    with caplog.at_level(logging.INFO, "cff_edge"):
        arguments = ["--data", str(tiny_dataset), "--out", str(tmp_path / "r"), *options, *SMALL]
        assert main(arguments) == 0
    assert "11 images, 5 of them defective" in caplog.text
    assert "random backbone weights: features mean nothing" in caplog.text
    seeded = load_backbone("efficientnet-lite0", "random", 64, 32, seed=5)
    assert made[0][1].info.weights_sha256 == seeded.info.weights_sha256
    normals = made[0][-1]  # for memory banks
    assert [(s.product, s.split) for s in normals] == [
        *[("ring", "train")] * 2,
        *[("washer", "train")] * 2,
    ]


def test_progress_goes_to_stderr_and_nothing_else_does(run: Path, tiny_dataset: Path) -> None:
    out = run.parent / "again"
    arguments = ["--data", str(tiny_dataset), "--exclude", "washer", "--out", str(out)]
    arguments += ["--cache", str(run / "cache"), *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "cff_edge.cli", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    # without a terminal there are no bars
    first, *epochs, last = done.stderr.splitlines()
    assert (first, last) == ("7 images, 3 of them defective", f"wrote {out}")
    for line, phase in zip(epochs, ("projectors", "calibrators"), strict=True):
        assert re.fullmatch(rf"{phase} 1/1: loss \d\.\d{{4}}, \d+\.\d s", line)
    # another number of threads adds up in another order
    for name, tensor in read_tensors(run / HEAD_NAME)[0].items():
        again = read_tensors(out / HEAD_NAME)[0][name]
        torch.testing.assert_close(again, tensor, atol=1e-3, rtol=0)
