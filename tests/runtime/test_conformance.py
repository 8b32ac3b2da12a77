"""The Python runtime, and the NumPy reference itself, over the conformance set."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from cff_runtime import Inspector, Profile
from cff_runtime.backends import open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.finishing import fuse_maps, stage_distance
from cff_runtime.imaging import load_image
from cff_runtime.product_check import mean_features, product_distance
from cff_runtime.thresholds import augmentations

FOLDER = Path(__file__).parents[1] / "conformance"
MODULES = ("answers", "cases", "reference", "reference_enrolment", "reference_thresholds")
# where OpenCV does not fuse, two in ten thousand levels of an augmented image round the other way
SAME_LEVELS = 1e-3
MOST_BYTES, MOST_FILE_BYTES = 720 << 10, 200 << 10


@pytest.fixture(scope="module")
def conformance() -> Iterator[dict[str, ModuleType]]:
    """The modules of the set, which lie beside its files."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if name in MODULES:
                del sys.modules[name]


@pytest.fixture(scope="module")
def cases(conformance: dict[str, ModuleType]) -> ModuleType:
    return conformance["cases"]


class PythonRuntime:
    """The implementation: bundles and profiles are opened once."""

    def __init__(self, cases: ModuleType) -> None:
        self._cases = cases
        self._opened: dict[Path, tuple[Inspector, Any]] = {}
        self._profiles: dict[Path, Profile] = {}

    def inspector(self, path: Path) -> tuple[Inspector, Any]:
        if path not in self._opened:
            bundle = Bundle.open(path)
            backend = open_backend("onnxruntime", bundle, {"threads": 1})
            self._opened[path] = Inspector(bundle, backend), backend
        return self._opened[path]

    def inspect(self, case: Any) -> Any:
        inspector, backend = self.inspector(case.bundle)
        if case.profile not in self._profiles:
            self._profiles[case.profile] = Profile.load(case.profile)
        profile, manifest = self._profiles[case.profile], inspector.bundle.manifest
        tensors: dict[str, Any] = {"resized": manifest.preprocessing(case.image)}
        encoding = backend.encode(case.tensors["resized"], profile.condition)
        features = [backend.download(handle) for handle in encoding.features]
        tensors |= {f"features_{stage}": rows for stage, rows in enumerate(features)}
        tensors["encoder_map"] = encoding.map
        nearest = []
        for stage, (handle, bank) in enumerate(zip(encoding.features, profile.banks, strict=False)):
            best = backend.search(stage, handle, backend.upload_bank(bank))
            tensors[f"nearest_{stage}"] = best
            tensors[f"distance_{stage}"] = stage_distance(best, manifest.distance)
            nearest.append(best)
        grids = [stage.grid for stage in manifest.stages[: len(nearest)]]
        weight, distance = manifest.map.weight, manifest.distance
        tensors["map"] = fuse_maps(nearest, grids, encoding.map, weight, distance)
        result = inspector.inspect(case.image, profile)
        np.testing.assert_array_equal(result.anomaly_map, tensors["map"])
        facts = json.loads(json.dumps(result.to_dict()))
        names = ("score", "text_score", "verdict", "regions", "warning")
        shown = {name: facts[name] for name in names}
        shown["product_distance"] = product_distance(mean_features(features), profile.means)
        return self._cases.Answer(tensors, shown)


@pytest.fixture(scope="module")
def runtime(cases: ModuleType) -> PythonRuntime:
    return PythonRuntime(cases)


def test_inspects_alike(cases: ModuleType, runtime: PythonRuntime) -> None:
    cases.check(runtime.inspect)


def test_enrols_alike(cases: ModuleType, runtime: PythonRuntime, tmp_path: Path) -> None:
    for case in cases.enrolments():
        if not _rounds_alike(case, runtime):
            pytest.skip("OpenCV rounds augmented images otherwise on this processor")
        wishes = dict(case.how["wishes"])
        margin, max_bank = wishes.pop("margin"), wishes.pop("max_bank")
        profile = runtime.inspector(case.bundle)[0].enroll(
            case.references,
            case.how["product"],
            case.how["text_name"],
            margin,
            further=case.further,
            defects=case.defects,
            wishes=wishes,
            max_bank=max_bank,
        )
        made = tmp_path / f"{case.name}.safetensors"
        profile.save(made)
        assert list(cases.enrolment_differences(case, made)) == []


def _rounds_alike(case: Any, runtime: PythonRuntime) -> bool:
    """Whether OpenCV gives the reference's augmentations, which a profile's scores hang on."""
    reference = sys.modules["reference_enrolment"]
    resize = runtime.inspector(case.bundle)[0].bundle.manifest.preprocessing
    same = True
    for path in case.references:
        image = resize(load_image(path))
        pairs = zip(augmentations(image), reference.augmentations(image), strict=True)
        for got, want in pairs:
            off = np.abs(got.astype(int) - want)
            assert off.max() <= 1 and np.mean(off > 0) < SAME_LEVELS
            same &= off.max() == 0
    return same


def test_reference_gives_the_files(conformance: dict[str, ModuleType], cases: ModuleType) -> None:
    whole = conformance["answers"].ConformanceSet(FOLDER)
    for name, entry in whole.cases["bundles"].items():
        want = cases.load_file(FOLDER / entry["tensors"])
        _assert_equal(whole.bundle_answers(name), want)
    for name, entry in whole.cases["profiles"].items():
        tensors, facts = whole.profile_answers(name)
        _assert_equal(tensors, cases.load_file(FOLDER / entry["tensors"]))
        answers = json.loads((FOLDER / entry["answers"]).read_text(encoding="utf-8"))
        assert cases.agree(json.loads(json.dumps(facts)), answers, 1e-9)
        made, facts = conformance["answers"].make_profile(whole, name)
        _assert_equal(made, cases.load_file(FOLDER / entry["path"]))
        written = cases.profile_facts(FOLDER / entry["path"])
        assert cases.agree(json.loads(json.dumps(facts)), written, 1e-6)


def _assert_equal(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype, name
        exact = array.dtype == np.uint8
        np.testing.assert_allclose(
            got[name], array, rtol=0, atol=0 if exact else 1e-6, err_msg=name
        )


def test_set_covers_what_it_must(cases: ModuleType) -> None:
    facts = [case.facts for case in cases.cases()]
    assert {one["verdict"] for one in facts} == {"pass", "review", "reject"}
    assert {0, 1, 2} <= {min(len(one["regions"]), 2) for one in facts}
    assert {one["warning"] is None for one in facts} == {True, False}
    assert {one["text_score"] is None for one in facts} == {True, False}
    assert any(_touches_at_a_corner(cases, case) for case in cases.cases())
    sizes = {case.image.shape[:2] for case in cases.cases()}
    assert (16, 16) in sizes and (500, 700) in sizes and any(h > w for h, w in sizes)
    kinds = [Bundle.open(path).manifest for path in sorted((FOLDER / "bundles").iterdir())]
    assert {kind.distance for kind in kinds} == {"cosine", "log"}
    assert all(kind.preprocessing.height != kind.preprocessing.width for kind in kinds)


def _touches_at_a_corner(cases: ModuleType, case: Any) -> bool:
    """Whether more regions would be found if pixels had but four neighbours."""
    limit = cases.profile_facts(case.profile)["threshold"]["pixel_value"]
    above = (case.tensors["map"] > limit).astype(np.uint8)
    return cv2.connectedComponents(above, connectivity=4)[0] - 1 > len(case.facts["regions"])


def test_reference_knows_nothing_of_the_runtime() -> None:
    for name in MODULES:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert "import cff_" not in text and "from cff_" not in text, name


def test_a_wrong_answer_is_seen(cases: ModuleType) -> None:
    case = next(cases.cases())
    good = cases.Answer(case.tensors, case.facts)
    assert list(cases.differences(case, good)) == []
    for name, array in case.tensors.items():
        wrong = array + np.asarray(1 if name == "resized" else 1e-3, array.dtype)
        assert list(cases.differences(case, cases.Answer({name: wrong}))), name
        not_a_number = np.full_like(array, 255 if name == "resized" else np.nan)
        assert list(cases.differences(case, cases.Answer({name: not_a_number}))), name
    for name, other in {"score": 9.0, "verdict": "review", "regions": [1], "warning": "w"}.items():
        assert list(cases.differences(case, cases.Answer({}, {name: other}))), name


def test_files_are_small() -> None:
    sizes = {
        path: path.stat().st_size
        for path in FOLDER.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sum(sizes.values()) < MOST_BYTES
    assert max(sizes.values()) < MOST_FILE_BYTES
