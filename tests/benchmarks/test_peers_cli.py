"""`cff-peers` from the command line, with SPADE, which needs no anomalib."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cff_edge.evaluation.context import choose_references, read_datasets
from cff_peers.cli import main
from cff_peers.peer import PEERS, PeerEntry


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products of smooth parts, the defective one with a bright spot at a known place."""
    rng = np.random.default_rng(11)
    root = tmp_path_factory.mktemp("data") / "parts"
    y, x = np.mgrid[:128, :128]
    for product, period in (("cap", 9.0), ("nut", 17.0)):
        names = ["train/good/0", "train/good/1", "test/good/0", "test/good/1", "test/spot/0"]
        for name in names:
            part = 110 + 40 * np.sin(x / period) * np.cos(y / period) + rng.normal(0, 2, (128, 128))
            if "spot" in name:
                part[80:100, 20:44] = 250
            path = root / product / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.repeat(part.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            Image.fromarray(pixels).save(path)
        mask = np.zeros((128, 128), np.uint8)
        mask[80:100, 20:44] = 255
        path = root / product / "ground_truth" / "spot" / "0_mask.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(mask).save(path)
    return root


@pytest.fixture(scope="module")
def references(root: Path) -> Path:
    """The list that an evaluation with two seeds and K up to 2 writes."""
    lists, _seeds = choose_references(read_datasets([root]), [1, 2], 2, None, None)
    path = root.parent / "references.json"
    lists.save(path)
    return path


def run(root: Path, references: Path, out: Path, *more: str) -> int:
    arguments = ["--references", str(references), "--data", str(root), "--out", str(out)]
    return main([*arguments, *more])


def test_spade_finds_the_spot(
    root: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    more = ("--methods", "spade", "--shots", "2,1", "--products", "cap", "--seeds", "1")
    assert run(root, references, tmp_path / "out", *more) == 0
    assert capsys.readouterr().out == f"spade: K = 1, 2 in {tmp_path / 'out' / 'spade'}\n"
    assert "spade parts/cap K=2 seed=0: 3 images in" in caplog.text
    assert "there already" not in caplog.text
    folders = sorted((tmp_path / "out" / "spade" / "parts").glob("*/*"))
    assert [folder.relative_to(tmp_path).as_posix() for folder in folders] == [
        "out/spade/parts/cap/k1_seed0",
        "out/spade/parts/cap/k2_seed0",
    ]
    for folder in folders:
        fields = json.loads((folder / "predictions.json").read_text())
        maps = np.load(folder / "maps.npy")
        spot = fields["images"].index("cap/test/spot/0.png")
        assert max(fields["scores"]) == fields["scores"][spot]
        row, column = np.unravel_index(maps[spot].argmax(), maps[spot].shape)
        assert 160 <= row < 200  # twice the part's own pixels
        assert 40 <= column < 88
    drawn = json.loads(references.read_text())["datasets"]["parts"]["cap"]["0"]
    assert fields["references"] == drawn

    assert run(root, references, tmp_path / "out", *more) == 0
    assert "spade parts/cap K=2 seed=0: there already (2 of 2)" in caplog.text


def test_nothing_that_can_run_is_status_1_and_said(
    root: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PEERS, "winclip", PeerEntry("no_such_package_", "Peer", "-", 0, ""))
    assert run(root, references, tmp_path, "--methods", "winclip", "--shots", "1,2") == 1
    assert "winclip: K = 1, 2 NOT RUN: the packages of peer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "spade,padin"), "`--methods` must be of patchcore, .* got 'padin'"),
        (("--methods", " , "), "`--methods` must be of .*got none"),
        (("--shots", "1,x"), "`--shots` must be whole numbers .* got '1,x'"),
        (("--shots", "-1"), "`--shots` must be whole numbers"),
        (("--shots", ""), "`--shots` must be whole numbers"),
        (("--device", "typewriter"), "`--device` must be a device of this machine"),
        (("--products", "cat", "--methods", "spade"), "did you mean 'cap'"),
        (("--shots", "3", "--methods", "spade"), "must be 3 or more, got 2"),
        (("--seeds", "3", "--methods", "spade"), "must hold 3 or more seeds"),
        (("--references", "gone.json"), "`--references` must be an existing file"),
        (("--data", "gone"), "`gone` must be an existing folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    root: Path,
    references: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    message: str,
) -> None:
    shots = () if "--shots" in more else ("--shots", "1,2")
    assert run(root, references, tmp_path / "out", *shots, *more) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


def test_help_is_quick_and_needs_no_packages() -> None:
    code = (
        "import json, sys, cff_peers.cli; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(finished.stdout))
    assert "cff_peers" in loaded
    assert not {"torch", "torchvision", "timm", "anomalib", "sklearn", "cff_edge"} & loaded


def test_every_peer_of_the_table_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = "".join(capsys.readouterr().out.split())
    for name in PEERS:
        assert name in text
