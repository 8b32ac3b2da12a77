"""Fixtures of libcff's tests: the library, built once per session, seen through ctypes.

`CFF_C_SANITIZE=1` builds it with the address and undefined behaviour sanitizers; their libraries
must then be loaded before Python:
`LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"`, and
`ASAN_OPTIONS=detect_leaks=0`, as Python itself leaves memory behind.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
STATUS = SimpleNamespace(
    OK=0,
    USAGE=1,
    MEMORY=2,
    STORAGE=3,
    BUNDLE=4,
    PROFILE=5,
    MISMATCH=6,
    IMAGE=7,
    BACKEND=8,
    BUFFER=9,
)


@pytest.fixture(scope="session")
def c_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder, with libcff.so and libcff_testing.so."""
    compiler = os.environ.get("CC", "cc")
    for tool in ("cmake", compiler):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, libcff cannot be built")
    folder = tmp_path_factory.mktemp("libcff")
    flags = ["-DCFF_WERROR=ON", "-DCFF_BUILD_TESTING=ON"]
    if os.environ.get("CFF_C_SANITIZE"):
        flags.append("-DCFF_SANITIZE=ON")
    for command in (
        ["cmake", "-S", str(C_FOLDER), "-B", str(folder), *flags],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return folder


@pytest.fixture(scope="session")
def c_library(c_build: Path) -> ctypes.CDLL:
    """libcff as a program sees it."""
    return _load(c_build / "libcff.so")


@pytest.fixture(scope="session")
def c_internals(c_build: Path) -> ctypes.CDLL:
    """libcff_testing, whose internal functions can be called too."""
    return _load(c_build / "libcff_testing.so")


@pytest.fixture(scope="session")
def c_status() -> SimpleNamespace:
    """Numbers of `cff_status`, written from the header."""
    return STATUS


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.cff_last_error.restype = ctypes.c_char_p
    library.cff_status_str.restype = ctypes.c_char_p
    for name in ("cff_bundle_free", "cff_profile_free"):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p], None
    return library


@pytest.fixture(scope="session")
def c_error(c_library: ctypes.CDLL) -> Callable[[], str]:
    """Return the sentence about the last failure of `c_library`."""
    return lambda: (c_library.cff_last_error() or b"").decode()
