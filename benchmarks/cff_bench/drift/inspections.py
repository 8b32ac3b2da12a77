"""Inspections of real pictures, with and without planted drifts; kept, so that trials are quick."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cff_bench.drift.planted import BORDER, Drift, Picture, cut, planted_drifts
from cff_runtime.drift.baseline import start_limits
from cff_runtime.imaging import list_images, load_image
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile
from cff_runtime.storage import atomic_write

log = logging.getLogger(__name__)
N_REFERENCES = 4
PAPERS = ("paper_bdp01_tl", "paper_brg01_rl", "paper_fvn01_tl")
PRODUCTS = (
    "ballscrew/ballscrew",
    "deeppcb/pcb_00041",
    "fabric_hsst/fabric",
    "hazelnut_toy/hazelnut",
    "mvtec_mini/hazelnut",
    "mvtec_mini/transistor",
    *(f"piped/{paper}" for paper in PAPERS),
)
OTHER_PAPERS = ("paper_flr01_tl", "paper_btn01_rl", "paper_zpb01_rl")
_TEXTURES = ("fabric_hsst/fabric", "piped/paper_fvn01_tl")
_KEPT_FIELDS = ("score", "verdict", "stage_distances", "measures")

Record = dict[str, Any]


@dataclass(frozen=True)
class Inspected:
    """A product's held-out good pictures, inspected with one draw of its references.

    Attributes
    ----------
    product : str
        Set and category.
    trained_on : bool
        Whether the bundle's adapters saw the product in training.
    limits : dict of str to float
        See `cff_runtime.drift.baseline.start_limits`.
    references : list of dict
        Each reference as if inspected, against the others.
    records : dict of str to list of dict
        By ``kind strength``; the same pictures in the same order but for ``supplier``.
    """

    product: str
    trained_on: bool
    limits: dict[str, float]
    references: list[Record]
    records: dict[str, list[Record]]


def inspect_product(
    inspector: Inspector, data: Path, product: str, draw: int, n_most: int, cache: Path
) -> Inspected:
    """Inspect a product's pictures under every drift, or read what was found before.

    Parameters
    ----------
    inspector : Inspector
    data : Path
        Folder of the sets.
    product : str
    draw : int
        Seed of the choice of references.
    n_most : int
        Held-out pictures that are used at most.
    cache : Path
        Folder; an entry is of one bundle, product, draw and number of pictures.

    Raises
    ------
    CffError
        Whatever reading and inspecting raise.
    """
    manifest = inspector.bundle.manifest
    facts = (manifest.id, product, draw, n_most, BORDER, _labels(data, product), 2)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
    path = cache / f"{key}.json"
    if path.is_file():
        return Inspected(**json.loads(path.read_bytes()))
    log.info("inspecting %s, draw %d", product, draw + 1)
    files = list_images([data / product / "train/good"])
    generator = np.random.default_rng(draw)
    order = generator.permutation(len(files))
    chosen = [files[i] for i in order[:N_REFERENCES]]
    rest = [files[i] for i in order[N_REFERENCES:]] + list_images([data / product / "test/good"])
    held_out = [load_image(rest[i]) for i in generator.permutation(len(rest))[:n_most]]
    references = [cut(load_image(file)) for file in chosen]
    profile = inspector.enroll(references, product)
    found = Inspected(
        product=product,
        trained_on=product.partition("/")[2] in manifest.head.get("trained_on", ()),
        limits=start_limits(profile.means),
        references=_left_out(inspector, references, product),
        records={
            label: [_inspect(inspector, drift.apply(image), profile) for image in pictures]
            for label, drift, pictures in _changes(data, product, held_out)
        },
    )
    atomic_write(path, json.dumps(found.__dict__).encode())
    return found


def label_of(drift: Drift) -> str:
    """Return the key of a drift's records."""
    return f"{drift.kind} {drift.strength}".strip()


def _changes(
    data: Path, product: str, held_out: Sequence[Picture]
) -> Iterator[tuple[str, Drift, Sequence[Picture]]]:
    texture = _TEXTURES[product == _TEXTURES[0]]
    image = load_image(list_images([data / texture / "train/good"])[0])
    for drift in planted_drifts(image):
        yield label_of(drift), drift, held_out
    for paper in _suppliers(product):
        drift = Drift("supplier", paper, cut)
        files = list_images([data / "piped" / paper / "test/good"])
        yield label_of(drift), drift, [load_image(file) for file in files]


def _suppliers(product: str) -> tuple[str, ...]:
    return OTHER_PAPERS if product.startswith("piped/") else ()


def _labels(data: Path, product: str) -> list[str]:
    return [label for label, _, _ in _changes(data, product, ())]


def _inspect(inspector: Inspector, image: Picture, profile: Profile) -> Record:
    found = inspector.inspect(image, profile).to_record()
    return {name: found[name] for name in _KEPT_FIELDS}


def _left_out(inspector: Inspector, references: Sequence[Picture], product: str) -> list[Record]:
    records = []
    for index, image in enumerate(references):
        others = [other for number, other in enumerate(references) if number != index]
        records.append(_inspect(inspector, image, inspector.enroll(others, product)))
    return records
