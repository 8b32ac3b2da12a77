"""Fixtures of libcff's tests: the library, built once per session, seen through ctypes.

ONNX Runtime is taken from the environment variable `CFF_ONNXRUNTIME_ROOT`, else from
`build/onnxruntime` of the checkout, where `make onnxruntime` puts it.

`CFF_C_SANITIZE=1` builds it with the address and undefined behaviour sanitizers; their libraries
must then be loaded before Python:
`LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"`, and
`ASAN_OPTIONS=detect_leaks=0`, as Python itself leaves memory behind.
"""

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle, Profile

ROOT = Path(__file__).parents[3]
C_FOLDER = ROOT / "runtime" / "c"
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
    ort = Path(os.environ.get("CFF_ONNXRUNTIME_ROOT") or ROOT / "build" / "onnxruntime")
    if not (ort / "include").is_dir():
        pytest.skip(f"ONNX Runtime is not at {ort}, libcff cannot be built; run `make onnxruntime`")
    folder = tmp_path_factory.mktemp("libcff")
    flags = ["-DCFF_WERROR=ON", "-DCFF_BUILD_TESTING=ON", f"-DCFF_ONNXRUNTIME_ROOT={ort}"]
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
    for kind in ("bundle", "profile", "session", "result"):
        function = getattr(library, f"cff_{kind}_free")
        function.argtypes, function.restype = [ctypes.c_void_p], None
    return library


@pytest.fixture(scope="session")
def c_error(c_library: ctypes.CDLL) -> Callable[[], str]:
    """Return the sentence about the last failure of `c_library`."""
    return lambda: (c_library.cff_last_error() or b"").decode()


class CImage(ctypes.Structure):
    """`cff_image`."""

    _fields_ = (
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", ctypes.c_size_t),
        ("format", ctypes.c_int32),
    )


class COptions(ctypes.Structure):
    """`cff_session_options`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("provider", ctypes.c_char_p),
        ("device", ctypes.c_int32),
        ("provider_options", ctypes.c_char_p),
    )


class CResultInfo(ctypes.Structure):
    """`cff_result_info`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("verdict", ctypes.c_int32),
        ("score", ctypes.c_double),
        ("threshold", ctypes.c_double),
        ("review_threshold", ctypes.c_double),
        ("text_score", ctypes.c_double),
        ("product_distance", ctypes.c_double),
        ("product_limit", ctypes.c_double),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("n_regions", ctypes.c_int64),
        ("preprocess_ms", ctypes.c_double),
        ("encode_ms", ctypes.c_double),
        ("search_ms", ctypes.c_double),
        ("finish_ms", ctypes.c_double),
    )


class CRegion(ctypes.Structure):
    """`cff_region`."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("area_px", ctypes.c_double),
        ("peak", ctypes.c_double),
        ("x", ctypes.c_int64),
        ("y", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("height", ctypes.c_int64),
    )


@dataclass(frozen=True)
class CResult:
    """All that a `cff_result` tells."""

    info: CResultInfo
    anomaly_map: NDArray[np.float32]
    regions: list[CRegion]
    json_text: str
    warning: str

    @property
    def json(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.json_text)
        return fields


class CError(Exception):
    """A call that failed."""

    def __init__(self, library: ctypes.CDLL, status: int) -> None:
        self.status = status
        super().__init__((library.cff_last_error() or b"").decode())


class CSession:
    """A bundle and its session, for tests."""

    Image, Options, Error = CImage, COptions, CError

    def __init__(
        self, library: ctypes.CDLL, bundle: Path, precision: str | None = None, **options: Any
    ) -> None:
        self.library = library
        self.bundle, self.handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._profiles: list[ctypes.c_void_p] = []
        chosen = COptions()
        size = ctypes.sizeof(chosen)
        name = None if precision is None else precision.encode()
        try:
            self.check(
                library.cff_session_options_init(ctypes.byref(chosen), ctypes.c_uint32(size))
            )
            for field, value in options.items():
                setattr(chosen, field, value)
            bundle_path = os.fsencode(bundle)
            self.check(library.cff_bundle_open(bundle_path, name, ctypes.byref(self.bundle)))
            self.check(
                library.cff_session_open(
                    self.bundle, ctypes.byref(chosen), ctypes.byref(self.handle)
                )
            )
        except CError:
            self.close()
            raise

    def check(self, status: int) -> None:
        if status != STATUS.OK:
            raise CError(self.library, status)

    def close(self) -> None:
        self.library.cff_session_free(self.handle)
        self.library.cff_bundle_free(self.bundle)
        for profile in self._profiles:
            self.library.cff_profile_free(profile)
        self.handle, self.bundle, self._profiles = ctypes.c_void_p(), ctypes.c_void_p(), []

    def load(self, path: Path) -> ctypes.c_void_p:
        """Load a profile, which is freed with the session."""
        profile = ctypes.c_void_p()
        self.check(self.library.cff_profile_load(os.fsencode(path), ctypes.byref(profile)))
        self._profiles.append(profile)
        return profile

    def inspect(self, profile: ctypes.c_void_p, image: NDArray[np.uint8]) -> CResult:
        """Inspect an RGB image [h,w,3]."""
        pixels = np.ascontiguousarray(image)
        height, width, _ = pixels.shape
        return self.inspect_image(profile, CImage(pixels.ctypes.data, width, height, 3 * width, 0))

    def inspect_image(self, profile: ctypes.c_void_p, image: CImage) -> CResult:
        result = ctypes.c_void_p()
        self.check(
            self.library.cff_session_inspect(
                self.handle, profile, ctypes.byref(image), ctypes.byref(result)
            )
        )
        try:
            return self._read(result)
        finally:
            self.library.cff_result_free(result)

    def _read(self, result: ctypes.c_void_p) -> CResult:
        info = CResultInfo(ctypes.sizeof(CResultInfo))
        self.check(self.library.cff_result_get_info(result, ctypes.byref(info)))
        anomaly_map = np.empty((info.height, info.width), np.float32)
        self.check(
            self.library.cff_result_get_map(
                result, anomaly_map.ctypes.data_as(ctypes.c_void_p), anomaly_map.size
            )
        )
        regions = [CRegion(ctypes.sizeof(CRegion)) for _ in range(info.n_regions)]
        for index, region in enumerate(regions):
            self.check(
                self.library.cff_result_get_region(
                    result, ctypes.c_size_t(index), ctypes.byref(region)
                )
            )
        said = self._text(result, 0)
        return CResult(info, anomaly_map, regions, said, self._text(result, 1))

    def _text(self, result: ctypes.c_void_p, which: int) -> str:
        needed = ctypes.c_size_t()
        read = self.library.cff_result_get_text
        self.check(read(result, which, None, ctypes.c_size_t(0), ctypes.byref(needed)))
        buffer = ctypes.create_string_buffer(needed.value)
        self.check(read(result, which, buffer, needed, None))
        return buffer.value.decode()


@pytest.fixture(scope="session")
def c_session_class() -> type[CSession]:
    """``CSession(library, bundle_path, precision=None, **options)``; close it."""
    return CSession


@pytest.fixture(scope="session")
def c_lite_session(c_library: ctypes.CDLL, lite_bundle: Bundle) -> Iterator[CSession]:
    """A session of `lite_bundle` on the CPU, with two threads."""
    session = CSession(c_library, lite_bundle.path, n_threads=2)
    yield session
    session.close()


@pytest.fixture(scope="session")
def lite_profile_path(lite_profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `lite_profile`; read-only."""
    path = tmp_path_factory.mktemp("profiles") / "ring.safetensors"
    lite_profile.save(path)
    return path
