"""Make the conformance set again: ``python tests/conformance/make.py [--check]``.

``--check`` makes it in a temporary folder and compares; numbers may differ by 1e-6. Not for every
day: the committed files are what later versions must still read.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
from answers import ADDED, ConformanceSet, Facts, Tensors, make_profile
from cases import profile_facts
from drawings import draw_all
from networks import Network
from PIL import Image
from reference_thresholds import Wishes
from safetensors.numpy import load_file
from safetensors.numpy import save as save_packed

from cff_export.folders import list_files, write_manifest
from cff_export.graphs import write_scorer
from cff_runtime.encoder_signature import Condition, MapOutput, ScoreOutput
from cff_runtime.manifest import Manifest, Stage
from cff_runtime.preprocessing import Preprocessing

FOLDER = Path(__file__).parent
TOLERANCE = 1e-6
REFERENCES = [f"reference_{index}" for index in range(4)]
INSPECTED = ["good", "same_size", "tiny", "portrait", "grey", "large", "faint", "weave", "corner"]
FEW = ["same_size", "grey", "large", "weave"]
FURTHER = [f"further_{index}" for index in range(5)]
DEFECTS = [f"defect_{index}" for index in range(5)]
# rounding of float32 may move a score or a map by about 1e-5
LEAST_MARGINS = {"score": 1e-3, "pixels": 4e-5, "product": 1e-2}
LEAST_GAP = 2e-6

BUNDLES = {
    "plain": (networks.PLAIN, "cosine", 0.05),
    "text": (networks.TEXT, "log", 0.3),
    "template": (networks.TEMPLATE, "cosine", 0.75),
}


def describe() -> Facts:
    """Return ``cases.json``."""
    profiles = {
        "plain_one": _profile("plain", REFERENCES[:1], Wishes(), FEW),
        "plain_four": _profile("plain", REFERENCES, Wishes(), INSPECTED),
        "plain_compressed": _profile("plain", REFERENCES, Wishes(max_bank=24), FEW),
        "text_two": _profile("text", REFERENCES[:2], Wishes(), FEW),
        "text_review": _profile(
            "text",
            REFERENCES[:2],
            Wishes(confidence=0.6, max_false_reject=0.4, max_false_accept=0.6),
            INSPECTED,
            FURTHER,
            DEFECTS,
        ),
        "template_one": _profile("template", REFERENCES[:1], Wishes(), FEW),
        "template_four": _profile("template", REFERENCES, Wishes(), INSPECTED),
        "template_review": _profile(
            "template",
            REFERENCES[:3],
            Wishes(confidence=0.6, max_false_reject=0.4, max_false_accept=0.6),
            FEW,
            FURTHER,
            DEFECTS,
        ),
    }
    for name, entry in profiles.items():
        entry.update(
            path=f"profiles/{name}.safetensors",
            tensors=f"expected/{name}.safetensors",
            answers=f"expected/{name}.json",
        )
    return {
        "version": 1,
        "images": {name: f"images/{name}.png" for name in draw_all()},
        "bundles": {
            name: {
                "path": f"bundles/{name}",
                "tensors": f"expected/{name}.safetensors",
                "images": INSPECTED,
            }
            for name in BUNDLES
        },
        "profiles": profiles,
    }


def _profile(
    bundle: str,
    references: list[str],
    wishes: Wishes,
    images: list[str],
    further: list[str] | None = None,
    defects: list[str] | None = None,
) -> Facts:
    enrolment = {
        "product": "plate",
        "text_name": "object" if BUNDLES[bundle][0].template_stage is None else None,
        "references": references,
        "further": further or [],
        "defects": defects or [],
        "wishes": asdict(wishes),
    }
    return {"bundle": bundle, "images": images, "enrolment": enrolment}


def make(folder: Path) -> None:
    """Write the whole set."""
    _write_json(folder / "cases.json", describe())
    for name, image in draw_all().items():
        path = _place(folder / "images" / f"{name}.png")
        Image.fromarray(image).save(path, optimize=True)
    for name, (network, distance, map_weight) in BUNDLES.items():
        _make_bundle(folder / "bundles" / name, network, distance, map_weight)
    cases = ConformanceSet(folder)
    for name, entry in cases.cases["bundles"].items():
        _place(folder / entry["tensors"]).write_bytes(save(cases.bundle_answers(name)))
    for name, entry in cases.cases["profiles"].items():
        tensors, facts = make_profile(cases, name)
        metadata = {"cff_profile": json.dumps(facts)}
        _place(folder / entry["path"]).write_bytes(save(tensors, metadata=metadata))
        found, answers = cases.profile_answers(name)
        _place(folder / entry["tensors"]).write_bytes(save(found))
        _write_json(folder / entry["answers"], answers)


def _make_bundle(folder: Path, network: Network, distance: str, map_weight: float) -> None:
    encoder, golden = "encoder.fp32.onnx", "golden/expected.safetensors"
    networks.write_network(network, _place(folder / encoder))
    stages = [
        Stage(f"tap_{tap}", network.grid(stage), network.stage_widths[stage])
        for stage, tap in enumerate(network.taps)
    ]
    if network.template_stage is None:
        scorers = [f"scorer_{stage}.fp32.onnx" for stage in range(len(stages))]
        for name, stage in zip(scorers, stages, strict=True):
            write_scorer(stage.n_tokens, stage.width, folder / name)
        condition = _words(folder, network)
        map_output = "text_map"
        score = ScoreOutput("text_score" if network.has_text_tower else None, "max")
    else:
        stage = stages[network.template_stage]
        shape = (stage.n_tokens, stage.width)
        condition = Condition(
            "template", shape, "reference", None, (), network.template_stage, "medoid"
        )
        scorers, map_output, score = [], "difference_map", ScoreOutput(None, "std")
    _place(folder / golden).write_bytes(save({"roles": np.zeros(0, np.uint8)}))
    manifest = Manifest(
        id="",
        precision="fp32",
        encoder=encoder,
        scorers=tuple(scorers),
        preprocessing=Preprocessing(network.height, network.width),
        stages=tuple(stages),
        distance=distance,
        condition=condition,
        map=MapOutput(map_output, map_weight),
        score=score,
        golden=golden,
        files=list_files(folder),
        backbone={"name": "conformance", "weights": "random"},
        head={},
        parity={},
        passes=(),
        tools={},
        licences={},
        notes=("a little network with random weights: results mean nothing",),
        created=ADDED,
    )
    write_manifest(folder, replace(manifest, id=manifest.compute_id()))


def _words(folder: Path, network: Network) -> Condition:
    """Write the text vectors of some class words."""
    file, words = "text.safetensors", ("object", "plate")
    vectors = dict(zip(words, networks.text_vectors(network, len(words)), strict=True))
    (folder / file).write_bytes(save(vectors))
    shape = (networks.JOINT_DIM, 2)
    return Condition("text", shape, "words", file, words, None, None)


def weaknesses(folder: Path) -> list[str]:
    """Name what rounding could turn: verdicts, regions, warnings, rows kept, templates."""
    cases, found = ConformanceSet(folder), []
    for name, entry in cases.cases["profiles"].items():
        answers = json.loads((folder / entry["answers"]).read_text(encoding="utf-8"))
        for image, answer in answers.items():
            for kind, least in LEAST_MARGINS.items():
                if answer["margins"][kind] < least:
                    found.append(f"{name}, {image}: {kind} {answer['margins'][kind]:.1e}")
        gaps = cases.enroll(name).gaps
        if gaps and min(gaps) < LEAST_GAP:
            found.append(f"{name}: rows or templates are chosen by {min(gaps):.1e}")
    return found


def differences(folder: Path, other: Path) -> list[str]:
    """Name the files that differ between two sets."""
    places = {
        path.relative_to(root).as_posix()
        for root in (folder, other)
        for path in root.rglob("*")
        if path.suffix in (".json", ".onnx", ".png", ".safetensors")
    }
    return [
        name
        for name in sorted(places)
        if not ((folder / name).is_file() and (other / name).is_file())
        or not _equal(_content(folder / name), _content(other / name))
    ]


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".onnx":
        return onnx.load(path)
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    tensors: Tensors = load_file(path)
    facts = profile_facts(path) if path.parent.name == "profiles" else None
    return [tensors, facts]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        exact = one.dtype == np.uint8
        return bool(np.allclose(one, other, rtol=0, atol=0 if exact else TOLERANCE))
    if isinstance(one, float):
        return abs(one - other) <= TOLERANCE
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def save(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """Return a safetensors file; the package writes memory as it lies, also where rows do not."""
    packed = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save_packed(packed, metadata=metadata)


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, fields: Facts) -> None:
    _place(path).write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        make(FOLDER)
        faults = weaknesses(FOLDER)
    else:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            faults = [f"{name} differs" for name in differences(FOLDER, Path(folder))]
    for fault in faults:
        print(fault, file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
