"""Which cells a peer runs, with which images, what is written, and what is not run."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cff_edge.datasets import read_dataset
from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.methods import Task
from cff_edge.evaluation.predictions_method import PredictionsMethod
from cff_edge.evaluation.references import ReferenceLists
from cff_peers import peer as peer_module
from cff_peers import runner
from cff_peers.peer import PEERS, InputSpec, PeerEntry, load_peer
from cff_peers.predictions import Predictions
from cff_peers.runner import Plan, prepare, run_peer
from cff_runtime.errors import BackendError, DatasetError, MissingDependencyError, UsageError

CPU = torch.device("cpu")
SIZE_PX = 32
SPEC = InputSpec(SIZE_PX, (100.0, 110.0, 120.0), (2.0, 4.0, 8.0))
DRAWS = {0: ("c", "a", "b"), 1: ("b", "c", "a")}
PRODUCTS = ("cap", "nut")


class MeanPeer:
    """Scores an image by its mean less that of the references; its map is the first channel."""

    input = SPEC

    def __init__(self, name: str = "mean", fault: float = 0.0) -> None:
        self.facts = {"method": name, "image_score": "difference"}
        self.fitted: list[tuple[int, str, int]] = []
        self._fault = fault

    def fit(self, references: Tensor, product: str, seed: int) -> None:
        self.fitted.append((len(references), product, seed))
        self._mean = references.mean() if len(references) else torch.tensor(0.0)

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images.mean((1, 2, 3)) - self._mean + self._fault, images[:, 0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two products of three good parts, nine good and two defective test images, 40 x 44 px."""
    rng = np.random.default_rng(3)
    root = tmp_path / "parts"
    names = ["train/good/a", "train/good/b", "train/good/c", "test/dent/0", "test/dent/1"]
    names += [f"test/good/{index}" for index in range(9)]
    for product in PRODUCTS:
        for name in names:
            path = root / product / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8)).save(path)
    return root


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> MeanPeer:
    """A peer that needs no weights, under the name `mean`, defined for K of 1 or more."""
    loaded = MeanPeer()
    monkeypatch.setitem(PEERS, "mean", PeerEntry("-", "-", "-", 1, "it needs a reference"))
    monkeypatch.setattr(runner, "load_peer", lambda _name, _device: loaded)
    return loaded


@pytest.fixture
def make_plan(root: Path, tmp_path: Path) -> Callable[..., Plan]:
    def make(shots: tuple[int, ...] = (1, 2), draws: Any = None) -> Plan:
        lists = {
            product: {
                seed: tuple(f"{product}/train/good/{name}.png" for name in names)
                for seed, names in (draws or DRAWS).items()
            }
            for product in PRODUCTS
        }
        references = ReferenceLists("train", {"parts": lists})
        datasets = {"parts": read_dataset(root, require_masks=False)}
        return Plan(datasets, references, shots, (0, 1), CPU, tmp_path / "out")

    return make


def prepared(path: Path) -> NDArray[np.float64]:
    """What the peer sees of a file, from the definition: Pillow's bicubic, then normalised."""
    with Image.open(path) as image:
        small = image.resize((SIZE_PX, 40), Image.Resampling.BICUBIC)  # columns first
        small = small.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    return np.asarray((np.asarray(small, np.float64) - SPEC.mean) / SPEC.std)


def read(plan: Plan, product: str, cell: str) -> dict[str, Any]:
    path = plan.out / "mean" / "parts" / product / cell / "predictions.json"
    return dict(json.loads(path.read_text()))


def test_cells_hold_what_the_peer_said_of_the_first_k_references(
    peer: MeanPeer, make_plan: Callable[..., Plan], root: Path
) -> None:
    plan = make_plan()
    assert run_peer(plan, "mean") == []
    assert peer.fitted == [(k, p, s) for p in PRODUCTS for s in (0, 1) for k in (1, 2)]
    fields = read(plan, "cap", "k2_seed1")
    assert fields["references"] == ["cap/train/good/b.png", "cap/train/good/c.png"]
    assert sorted(fields["images"]) == sorted(
        path.relative_to(root).as_posix() for path in (root / "cap" / "test").glob("*/*.png")
    )
    drawn = np.mean([prepared(root / name).mean() for name in fields["references"]])
    expected = [prepared(root / name).mean() - drawn for name in fields["images"]]
    np.testing.assert_allclose(fields["scores"], expected, rtol=1e-5, atol=1e-4)
    assert fields["image_score"] == "difference"
    assert "Pillow" in fields["facts"]["preprocessing"]
    assert [fields[name] for name in ("method", "dataset", "product", "k", "seed")] == [
        "mean",
        "parts",
        "cap",
        2,
        1,
    ]


def test_cff_eval_reads_it_as_a_method(
    peer: MeanPeer, make_plan: Callable[..., Plan], root: Path
) -> None:
    plan = make_plan()
    run_peer(plan, "mean")
    method = PredictionsMethod(plan.out / "mean")
    cell = Cell("any name", "parts", "nut", 2, 0)
    references = ("nut/train/good/a.png", "nut/train/good/c.png")
    images = ("nut/test/good/8.png", "nut/test/dent/1.png")  # some, in another order
    answer = method.judge(Task(cell, root, references, images, "deployable"))
    drawn = np.mean([prepared(root / name).mean() for name in references])
    for index, name in enumerate(images):
        seen = prepared(root / name)
        np.testing.assert_allclose(answer.maps[index], seen[:, :, 0], rtol=1e-5, atol=1e-4)
        assert answer.scores[index] == pytest.approx(seen.mean() - drawn, abs=1e-4)
    assert answer.image_score == "difference"
    assert method.facts(cell)["method"] == "mean"
    with pytest.raises(DatasetError, match=r"references\.json"):
        method.judge(Task(cell, root, references[:1], images, "deployable"))


def test_continues_where_it_was_interrupted(peer: MeanPeer, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    run_peer(plan, "mean")
    folder = plan.out / "mean" / "parts"
    (folder / "cap" / "k1_seed0" / "predictions.json").unlink()  # as if killed before it
    (folder / "nut" / "k1_seed1" / "predictions.json").write_text('{"references"')
    (folder / "nut" / "k2_seed1" / "maps.npy").unlink()
    stamp = (folder / "cap" / "k2_seed0" / "predictions.json").stat().st_mtime_ns
    peer.fitted.clear()
    run_peer(plan, "mean")
    assert peer.fitted == [(1, "cap", 0), (1, "nut", 1), (2, "nut", 1)]
    assert (folder / "cap" / "k2_seed0" / "predictions.json").stat().st_mtime_ns == stamp
    assert read(plan, "nut", "k1_seed1")["k"] == 1


def test_other_references_or_another_peer_make_a_cell_anew(
    peer: MeanPeer, make_plan: Callable[..., Plan]
) -> None:
    run_peer(make_plan(), "mean")
    peer.fitted.clear()
    run_peer(make_plan(draws={0: ("c", "b", "a"), 1: DRAWS[1]}), "mean")
    assert peer.fitted == [(2, "cap", 0), (2, "nut", 0)]  # K = 1 has the same one
    peer.fitted.clear()
    peer.facts = {**peer.facts, "version": "2"}
    run_peer(make_plan(), "mean")
    assert len(peer.fitted) == 8


def test_shots_below_the_peers_own_are_said_not_run(
    peer: MeanPeer, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan((0, 1))
    (not_run,) = run_peer(plan, "mean")
    assert (not_run.peer, not_run.shots) == ("mean", (0,))
    assert {k for k, _, _ in peer.fitted} == {1}
    note = json.loads((plan.out / "mean" / "not_run.json").read_text())
    assert note["not_run"] == [{"shots": [0], "reason": "it needs a reference"}]
    assert not list(plan.out.glob("mean/*/*/k0_*"))
    assert run_peer(make_plan((1,)), "mean") == []
    assert not (plan.out / "mean" / "not_run.json").exists()


def test_zero_shot_runs_once(
    peer: MeanPeer, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "mean", PeerEntry("-", "-", "-", 0, ""))
    plan = make_plan((0,))
    assert run_peer(plan, "mean") == []
    assert peer.fitted == [(0, "cap", 0), (0, "nut", 0)]
    assert read(plan, "cap", "k0_seed0")["references"] == []


def test_without_packages_or_weights_a_peer_is_not_run(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "far", PeerEntry("no_such_package_", "Peer", "-", 1, ""))
    plan = make_plan()
    (not_run,) = run_peer(plan, "far")
    assert not_run.shots == (1, 2)
    assert "no_such_package_" in not_run.reason
    assert "make peers-install" in not_run.reason
    assert [path.name for path in (plan.out / "far").iterdir()] == ["not_run.json"]

    error = peer_module.unavailable_weights("net", OSError("no route\nto host " + 40 * "words "))
    assert isinstance(error, MissingDependencyError)
    assert "weights of `net` must be on this machine" in str(error)
    assert "(no route to host words" in str(error)
    assert len(str(error)) < 300


def test_a_fault_of_the_project_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "x", PeerEntry("cff_peers.not_there", "Peer", "-", 1, ""))
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        load_peer("x", CPU)


def test_an_unknown_peer_is_refused(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(UsageError, match=r"patchcore.*got 'patchcor'"):
        run_peer(make_plan(), "patchcor")


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_a_result_that_is_not_finite_is_not_written(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, fault: float
) -> None:
    monkeypatch.setitem(PEERS, "mean", PeerEntry("-", "-", "-", 1, ""))
    monkeypatch.setattr(runner, "load_peer", lambda _name, _device: MeanPeer(fault=fault))
    plan = make_plan()
    with pytest.raises(BackendError, match=r"mean parts/cap K=1 seed=0"):
        run_peer(plan, "mean")
    assert not list(plan.out.rglob("*.json"))


def test_maps_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 1, 2] = np.nan
    cell = Cell("m", "d", "p", 1, 0)
    scores = np.zeros(1, np.float32)
    facts = {"image_score": "x"}
    predictions = Predictions(cell, ("r",), ("i",), scores, maps, facts, 0.1)
    with pytest.raises(BackendError, match="finite"):
        predictions.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_input_gives_the_same_bytes(
    peer: MeanPeer, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan((2,))
    run_peer(plan, "mean")
    path = plan.out / "mean" / "parts" / "cap" / "k2_seed0" / "maps.npy"
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    run_peer(plan, "mean")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first


def test_prepare_normalises_and_turns_the_axes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    given = prepare(pixels, SPEC, CPU)
    expected = ((pixels.astype(np.float64) - SPEC.mean) / SPEC.std).transpose(0, 3, 1, 2)
    assert given.dtype == torch.float32
    assert given.is_contiguous()
    np.testing.assert_allclose(given.numpy(), expected, rtol=1e-6)
