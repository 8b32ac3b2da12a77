"""libcff over the conformance set: its public functions, and its stages one by one."""

import ctypes
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

FOLDER = Path(__file__).parents[2] / "conformance"
MODULES = ("cases", "libcff", "libcff_stages")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The list of the set and libcff's side of it, which lie beside its files."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def cases(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["cases"]


@pytest.fixture(scope="module")
def libcff(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["libcff"]


@pytest.fixture(scope="module")
def public(libcff: ModuleType, c_library: ctypes.CDLL) -> Iterator[Any]:
    library = libcff.Libcff(c_library)
    yield library
    library.close()


@pytest.fixture(scope="module")
def inner(libcff: ModuleType, c_internals: ctypes.CDLL) -> Iterator[Any]:
    library = libcff.Libcff(c_internals)
    yield library
    library.close()


def test_inspects_alike(cases: ModuleType, libcff: ModuleType, public: Any) -> None:
    cases.check(lambda case: libcff.inspect(public, case, libcff.as_image(case.image)))


@pytest.mark.parametrize("layout", ["BGR", "RGBA"])
def test_inspects_other_pixels_alike(
    cases: ModuleType, libcff: ModuleType, public: Any, layout: str
) -> None:
    """The same image as a camera may give it: another order of channels, rows with a gap."""

    def inspect(case: Any) -> Any:
        height, width, _ = case.image.shape
        wide = np.full((height, width + 5, len(layout)), 77, np.uint8)
        wide[:, :width, :3] = case.image if layout == "RGBA" else case.image[:, :, ::-1]
        image = libcff.as_image(wide[:, :width], getattr(libcff, layout))
        return libcff.inspect(public, case, image)

    cases.check(inspect)


def test_stages_are_alike(cases: ModuleType, modules: dict[str, ModuleType], inner: Any) -> None:
    cases.check(lambda case: modules["libcff_stages"].inspect_stages(inner, case))


def test_enrols_alike(cases: ModuleType, libcff: ModuleType, public: Any, tmp_path: Path) -> None:
    for case in cases.enrolments():
        made = tmp_path / f"{case.name}.safetensors"
        libcff.enroll(public, case, made)
        assert list(cases.enrolment_differences(case, made)) == []


def test_profiles_are_kept(cases: ModuleType, public: Any, tmp_path: Path) -> None:
    for number, case in enumerate(cases.enrolments()):
        copy = tmp_path / f"{number}.safetensors"
        public.call("cff_profile_save", public.profile(case.profile), str(copy).encode())
        assert cases.profile_facts(copy) == cases.profile_facts(case.profile)
        before, after = load_file(case.profile), load_file(copy)
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[name], after[name]) for name in before)
