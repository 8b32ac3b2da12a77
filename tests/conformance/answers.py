"""Everything that is expected of the set, computed by the reference from the set's own inputs."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import reference
from cases import profile_facts
from numpy.typing import NDArray
from PIL import Image as PillowImage
from reference import Doubles, Encoder, Encoding, Image
from reference_enrolment import Enroller, Enrolment
from reference_thresholds import Wishes
from safetensors.numpy import load_file

Tensors = dict[str, NDArray[Any]]
Facts = dict[str, Any]

ADDED = "2026-01-01T00:00:00+00:00"
STATEMENT = "made for the conformance set; it promises nothing"


class ConformanceSet:
    """The folder, and what the reference says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: Facts = json.loads((folder / "cases.json").read_text(encoding="utf-8"))

    @cached_property
    def images(self) -> dict[str, Image]:
        """Every image as it is given, RGB [h,w,3]."""
        return {
            name: np.asarray(PillowImage.open(self.folder / path))
            for name, path in self.cases["images"].items()
        }

    @cached_property
    def bundles(self) -> "dict[str, ReferenceBundle]":
        """Every bundle, by name."""
        return {
            name: ReferenceBundle(self.folder / entry["path"], self.images)
            for name, entry in self.cases["bundles"].items()
        }

    def bundle_answers(self, name: str) -> Tensors:
        """Return what a bundle answers with the class word ``object``.

        Where the condition is of a reference, with zeros, and only what is the same with any.
        """
        bundle = self.bundles[name]
        found: Tensors = {}
        for image in self.cases["bundles"][name]["images"]:
            encoding = bundle.encode(image, bundle.first_condition("object"))
            found[f"{image}.resized"] = bundle.resized(image)
            for stage, rows in enumerate(encoding.features):
                found[f"{image}.features_{stage}"] = rows.astype(np.float32)
            if bundle.is_of_reference:
                continue
            found[f"{image}.encoder_map"] = encoding.map.astype(np.float32)
            if encoding.score is not None:
                found[f"{image}.encoder_score"] = np.array([encoding.score], np.float32)
        return found

    def enroll(self, name: str) -> Enrolment:
        """Return the enrolment that a profile is made of."""
        entry = self.cases["profiles"][name]
        bundle, how = self.bundles[entry["bundle"]], entry["enrolment"]
        word = None if bundle.is_of_reference else bundle.first_condition(how["text_name"])
        enroller = Enroller(bundle.encoder, bundle.manifest, word)
        references, further, defects = (
            [bundle.resized(image) for image in how[kind]]
            for kind in ("references", "further", "defects")
        )
        return enroller.enroll(references, Wishes(**how["wishes"]), further, defects)

    def profile_answers(self, name: str) -> tuple[Tensors, Facts]:
        """Return what a profile, as it stands in its file, answers for its images."""
        entry = self.cases["profiles"][name]
        bundle = self.bundles[entry["bundle"]]
        path = self.folder / entry["path"]
        profile = ReferenceProfile(profile_facts(path), load_file(path))
        tensors: Tensors = {}
        facts: Facts = {}
        for image in entry["images"]:
            found, facts[image] = bundle.inspect(image, profile)
            tensors.update({f"{image}.{name}": array for name, array in found.items()})
        return tensors, facts


class ReferenceProfile:
    """A profile's file."""

    def __init__(self, facts: Facts, tensors: Tensors) -> None:
        self.facts = facts
        n_banks = sum(name.startswith("bank_") for name in tensors)
        self.banks = [tensors[f"bank_{s}"].astype(np.float64) for s in range(n_banks)]
        n_stages = sum(name.startswith("mean_") for name in tensors)
        self.means = [tensors[f"mean_{s}"].astype(np.float64) for s in range(n_stages)]
        self.condition = tensors["condition"]


class ReferenceBundle:
    """A bundle's folder."""

    def __init__(self, path: Path, images: dict[str, Image]) -> None:
        self.path = path
        self.manifest: Facts = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        self.is_of_reference = self.manifest["condition"]["source"] == "reference"
        self.encoder = Encoder(path / self.manifest["encoder"], self.manifest)
        self.grids = [(stage["grid"][0], stage["grid"][1]) for stage in self.manifest["stages"]]
        self._images = images
        self._encodings: dict[tuple[str, bytes], Encoding] = {}

    def first_condition(self, word: str) -> NDArray[np.float32]:
        """Return the condition of a class word, or zeros where it is of a reference."""
        condition = self.manifest["condition"]
        if self.is_of_reference:
            return np.zeros(condition["shape"], np.float32)
        return load_file(self.path / condition["file"])[word]

    def resized(self, image: str) -> Image:
        """Return an image as the encoder sees it."""
        size = self.manifest["preprocessing"]
        return reference.resize(self._images[image], size["height"], size["width"])

    def encode(self, image: str, condition: NDArray[np.float32]) -> Encoding:
        """Return an image's encoding with a condition."""
        key = image, condition.tobytes()
        if key not in self._encodings:
            self._encodings[key] = self.encoder(self.resized(image), condition)
        return self._encodings[key]

    def inspect(self, image: str, profile: ReferenceProfile) -> tuple[Tensors, Facts]:
        """Return tensors and facts of one inspection."""
        facts = profile.facts
        encoding = self.encode(image, profile.condition)
        searched = encoding.features[: len(profile.banks)]
        nearest = reference.search(searched, profile.banks)
        found = reference.distances(nearest, self.manifest["distance"])
        weight = self.manifest["map"]["weight"]
        values = reference.anomaly_map(found, self.grids, encoding.map, weight)
        threshold = facts["threshold"]
        statistic = reference.statistic_of(values, self.manifest["score"]["statistic"])
        score = reference.score_of(statistic, encoding.score, facts["peak_scale"])
        distance = reference.product_distance(
            reference.mean_features(encoding.features), profile.means
        )
        limit = facts["product_limit"]
        size = self._images[image].shape
        regions = reference.find_regions(values, threshold["pixel_value"], (size[0], size[1]))
        tensors: Tensors = {"map": values.astype(np.float32)}
        if self.is_of_reference:
            tensors["encoder_map"] = encoding.map.astype(np.float32)
        for stage, (cosines, plane) in enumerate(zip(nearest, found, strict=True)):
            tensors[f"nearest_{stage}"] = cosines.astype(np.float32)
            tensors[f"distance_{stage}"] = plane.astype(np.float32)
        return tensors, {
            "score": score,
            "text_score": encoding.score,
            "verdict": reference.verdict_of(score, threshold["value"], threshold["review"]),
            "regions": [asdict(region) for region in regions],
            "product_distance": distance,
            "warning": reference.warning_of(facts["product"], distance, limit),
            "margins": _margins(values, score, distance, facts),
        }


def _margins(values: Doubles, score: float, distance: float, facts: Facts) -> Facts:
    """Return how far rounding may go before something else than a number changes."""
    threshold = facts["threshold"]
    return {
        "score": min(abs(score - threshold["value"]), abs(score - threshold["review"])),
        "pixels": float(np.abs(values - threshold["pixel_value"]).min()),
        "product": abs(distance - facts["product_limit"]),
    }


def make_profile(cases: ConformanceSet, name: str) -> tuple[Tensors, Facts]:
    """Return tensors and facts of a profile."""
    entry = cases.cases["profiles"][name]
    bundle, how = cases.bundles[entry["bundle"]], entry["enrolment"]
    enrolment, manifest = cases.enroll(name), bundle.manifest
    pixels = [bundle.resized(image) for image in how["references"]]
    tensors: Tensors = {f"bank_{s}": bank for s, bank in enumerate(enrolment.banks)}
    tensors |= {f"mean_{s}": rows for s, rows in enumerate(enrolment.means)}
    tensors |= {"condition": enrolment.condition, "references": np.stack(pixels)}
    found, n_references = enrolment.facts, len(pixels)
    names = [Path(cases.cases["images"][image]).name for image in how["references"]]
    condition_name = how["text_name"] if enrolment.template is None else names[enrolment.template]
    encoder_hash = manifest["files"][manifest["encoder"]]["sha256"]
    facts = {
        "schema_version": 3,
        "product": how["product"],
        "bundle_id": manifest["id"],
        "origin": {
            "precision": manifest["precision"],
            "encoder_sha256": hashlib.sha256(encoder_hash.encode()).hexdigest(),
            "preprocessing": manifest["preprocessing"],
            "distance": manifest["distance"],
            "map_weight": manifest["map"]["weight"],
            "score_statistic": manifest["score"]["statistic"],
        },
        "references": [
            {
                "name": name,
                "sha256": hashlib.sha256(resized.tobytes()).hexdigest(),
                "added": ADDED,
                "size": list(cases.images[image].shape[1::-1]),
            }
            for name, image, resized in zip(names, how["references"], pixels, strict=True)
        ],
        "threshold": {
            **{key: found[key] for key in ("value", "pixel_value", "method")},
            "n_parts": n_references,
            **{key: found[key] for key in ("scores", "peaks", "expected_false_rejects")},
            "statement": STATEMENT,
            "review": found["review"],
            "card": {},
        },
        "display_range": found["display_range"],
        "peak_scale": found["peak_scale"],
        "condition_name": condition_name,
        "product_limit": found["product_limit"],
        "settings": how["wishes"],
        "compression": _compression(cases, name, enrolment, manifest["distance"]),
        "history": [{"action": "enroll", "at": ADDED, "sha256_before": None}],
    }
    return tensors, facts


def _compression(cases: ConformanceSet, name: str, enrolment: Enrolment, kind: str) -> Facts | None:
    if enrolment.kept is None:
        return None
    entry = cases.cases["profiles"][name]
    bundle, how = cases.bundles[entry["bundle"]], entry["enrolment"]
    start = bundle.first_condition(how["text_name"])
    whole = [
        np.concatenate(stage)
        for stage in zip(
            *(bundle.encode(image, start).features for image in how["references"]),
            strict=True,
        )
    ]
    dropped = [
        np.delete(1.0 - (bank @ bank[rows].T).max(axis=1), rows)
        for bank, rows in zip(whole, enrolment.kept, strict=True)
    ]
    largest, common = (
        [float(np.percentile(d, share)) if len(d) else 0.0 for d in dropped] for share in (100, 99)
    )
    return {
        "method": "greedy k-centre",
        "n_rows_full": [len(bank) for bank in whole],
        "n_rows": [len(rows) for rows in enrolment.kept],
        "largest": largest,
        "percentile_99": common,
        "mean": [float(d.mean()) if len(d) else 0.0 for d in dropped],
        "map_rise_largest": _map_rise(largest, kind),
        "map_rise_percentile_99": _map_rise(common, kind),
    }


def _map_rise(cosine_distances: Sequence[float], kind: str) -> float:
    """Return how much a map can rise at most where rows at these distances are dropped."""
    total = 0.0
    for distance in cosine_distances:
        r = math.acos(1.0 - distance)
        if kind == "cosine":
            a = math.pi / 2 - r / 2
            total += math.cos(a) - math.cos(a + r)
        else:
            a = math.acos(math.cos(r / 2) / 1.01) - r / 2
            total += math.log((1.01 - math.cos(a + r)) / (1.01 - math.cos(a)))
    return total
