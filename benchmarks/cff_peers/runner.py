"""Run peers over cells, leaving out what is there and saying what cannot be."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cff_edge.datasets import Dataset
from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.references import ReferenceLists, relative_path
from cff_peers.peer import PEERS, InputSpec, Peer, load_peer
from cff_peers.predictions import NotRun, Predictions, is_complete, write_not_run
from cff_runtime.errors import MissingDependencyError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing

_IMAGES_AT_ONCE = 8
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What peers run over.

    Attributes
    ----------
    datasets : mapping of str to Dataset
        By name, holding only the products to run.
    references : ReferenceLists
        Draws of all products for all seeds, of the largest K or more.
    shots : tuple of int
        Values of K; 0 is zero-shot.
    seeds : tuple of int
    device : device
    out : Path
        Folder to write.
    """

    datasets: Mapping[str, Dataset]
    references: ReferenceLists
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    device: torch.device
    out: Path


def run_peer(plan: Plan, name: str) -> list[NotRun]:
    """Run one peer at all shots that it is defined for.

    Returns
    -------
    list of NotRun
        What did not run and why, as it also stands in the peer's folder. A peer without its
        packages or weights did not run; everything else that goes wrong is an error.

    Raises
    ------
    UsageError
        If there is no such peer.
    CffError
        If an image cannot be read, a result is not finite, or a file cannot be written.
    """
    entry = PEERS.get(name)
    shots = [k for k in plan.shots if entry is None or k >= entry.min_references]
    not_run = []
    try:
        peer = load_peer(name, plan.device)
    except MissingDependencyError as error:
        not_run.append(NotRun(name, plan.shots, str(error)))
    else:
        too_few = tuple(k for k in plan.shots if k not in shots)
        if too_few:
            not_run.append(NotRun(name, too_few, PEERS[name].why))
        for dataset in plan.datasets:
            for product in plan.datasets[dataset].products:
                _run_product(plan, peer, [*_cells(plan, name, dataset, product, shots)])
    write_not_run(plan.out, name, not_run)
    return not_run


def prepare(images: NDArray[np.uint8], spec: InputSpec, device: torch.device) -> Tensor:
    """Map resized RGB images [B,h,w,3] to the network input [B,3,h,w], float32."""
    mean = torch.tensor(spec.mean, device=device)
    std = torch.tensor(spec.std, device=device)
    pixels = torch.from_numpy(images).to(device, torch.float32)
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def _cells(
    plan: Plan, name: str, dataset: str, product: str, shots: Sequence[int]
) -> Iterator[Cell]:
    for seed in plan.seeds:
        for k in shots:
            if k > 0 or seed == plan.seeds[0]:  # zero-shot knows no draw
                yield Cell(name, dataset, product, k, seed)


def _run_product(plan: Plan, peer: Peer, cells: Sequence[Cell]) -> None:
    """Run the cells of one product; its test images are read once."""
    facts = {**peer.facts, "preprocessing": _describe(peer.input)}
    pixels = None
    for index, cell in enumerate(cells, 1):
        dataset = plan.datasets[cell.dataset]
        references = plan.references.of(cell.dataset, cell.product, cell.seed)[: cell.k]
        samples = dataset.of(cell.product).select(split="test")
        images = tuple(relative_path(dataset, sample) for sample in samples)
        if is_complete(plan.out, cell, references, images, facts):
            _LOG.info("%s: there already (%d of %d)", cell, index, len(cells))
            continue
        if pixels is None:
            pixels = _read(dataset.root, images, peer.input.size_px)
        drawn = _read(dataset.root, references, peer.input.size_px)
        start = time.perf_counter()
        scores, maps = _run_cell(plan, peer, cell, drawn, pixels)
        seconds = time.perf_counter() - start
        Predictions(cell, references, images, scores, maps, facts, seconds).save(plan.out)
        counts = (len(images), seconds, index, len(cells))
        _LOG.info("%s: %d images in %.1f s (%d of %d)", cell, *counts)


def _run_cell(
    plan: Plan, peer: Peer, cell: Cell, references: NDArray[np.uint8], images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    peer.fit(prepare(references, peer.input, plan.device), cell.product, cell.seed)
    scores, maps = [], []
    for first in range(0, len(images), _IMAGES_AT_ONCE):
        batch = prepare(images[first : first + _IMAGES_AT_ONCE], peer.input, plan.device)
        batch_scores, batch_maps = peer.score(batch)
        scores.append(batch_scores.cpu().numpy())
        maps.append(batch_maps.cpu().numpy())
    return np.concatenate(scores), np.concatenate(maps)


def _read(root: Path, paths: Sequence[str], size_px: int) -> NDArray[np.uint8]:
    """Read images at the peer's size, [n,size,size,3]."""
    resize = Preprocessing(size_px, size_px)
    pixels = np.empty((len(paths), size_px, size_px, 3), np.uint8)
    for index, path in enumerate(paths):
        pixels[index] = resize(load_image(root / path))
    return pixels


def _describe(spec: InputSpec) -> str:
    return (
        f"squashed to {spec.size_px} x {spec.size_px} px by Pillow's bicubic resize "
        f"(cff_runtime.preprocessing), (x - {list(spec.mean)}) / {list(spec.std)}"
    )
