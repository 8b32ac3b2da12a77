"""libcff as ctypes sees it: its structs, and calls that fail with its sentence.

A worked example of how another implementation meets the conformance set.
"""

import ctypes
import json
import math
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from cases import Answer, Case, EnrolmentCase
from numpy.typing import NDArray
from PIL import Image

RGB, BGR, RGBA = 0, 1, 2
JSON, WARNING = 0, 1
VERDICTS = ("pass", "review", "reject")
SIZE, POINTER = ctypes.c_size_t, ctypes.c_void_p
Handle: TypeAlias = ctypes.c_void_p


class CImage(ctypes.Structure):
    _fields_ = (
        ("pixels", POINTER),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride", SIZE),
        ("format", ctypes.c_int32),
    )


class ResultInfo(ctypes.Structure):
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
        ("times_ms", ctypes.c_double * 4),
    )


class CRegion(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("area_px", ctypes.c_double),
        ("peak", ctypes.c_double),
        ("box", ctypes.c_int64 * 4),
    )


class SessionOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("provider", ctypes.c_char_p),
        ("device", ctypes.c_int32),
        ("provider_options", ctypes.c_char_p),
    )


class EnrollOptions(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("text_name", ctypes.c_char_p),
        ("margin", ctypes.c_double),
        ("max_false_reject", ctypes.c_double),
        ("max_false_accept", ctypes.c_double),
        ("confidence", ctypes.c_double),
        ("max_bank", ctypes.c_int64),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("further", ctypes.POINTER(CImage)),
        ("n_further", SIZE),
        ("defects", ctypes.POINTER(CImage)),
        ("n_defects", SIZE),
        ("progress", POINTER),
        ("user", POINTER),
    )


class Libcff:
    """A build of libcff with the bundles and profiles that it has opened."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._sessions: dict[Path, Handle] = {}
        self._profiles: dict[Path, Handle] = {}
        self._bundles: list[Handle] = []

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        assert status == 0, f"{name}: {(self.library.cff_last_error() or b'').decode()}"

    def made(self, name: str, *arguments: Any) -> Handle:
        """Call a function whose last argument is where it puts a handle."""
        handle = POINTER()
        self.call(name, *arguments, ctypes.byref(handle))
        return handle

    def free(self, name: str, *handles: Any) -> None:
        function = getattr(self.library, name)
        function.restype = None
        function(*handles)

    def session(self, path: Path) -> Handle:
        if path not in self._sessions:
            self._bundles.append(self.made("cff_bundle_open", str(path).encode(), None))
            options = SessionOptions()
            size = ctypes.c_uint32(ctypes.sizeof(options))
            self.call("cff_session_options_init", ctypes.byref(options), size)
            options.n_threads = 1
            self._sessions[path] = self.made(
                "cff_session_open", self._bundles[-1], ctypes.byref(options)
            )
        return self._sessions[path]

    def profile(self, path: Path) -> Handle:
        if path not in self._profiles:
            self._profiles[path] = self.made("cff_profile_load", str(path).encode())
        return self._profiles[path]

    def close(self) -> None:
        for session in self._sessions.values():
            self.free("cff_session_free", session)
        for profile in self._profiles.values():
            self.free("cff_profile_free", profile)
        for bundle in self._bundles:
            self.free("cff_bundle_free", bundle)

    def text(self, name: str, handle: Handle, which: int) -> str:
        needed = SIZE()
        self.call(name, handle, which, None, SIZE(0), ctypes.byref(needed))
        buffer = ctypes.create_string_buffer(needed.value)
        self.call(name, handle, which, buffer, needed, None)
        return buffer.value.decode()


def pointer(array: NDArray[Any]) -> Handle:
    return POINTER(array.ctypes.data)


def as_image(pixels: NDArray[np.uint8], pixel_format: int = RGB) -> CImage:
    """Describe an image; its pixels must outlive what comes back."""
    height, width = pixels.shape[:2]
    return CImage(pointer(pixels), width, height, pixels.strides[0], pixel_format)


def pointers(arrays: list[NDArray[np.float32]]) -> Any:
    return (POINTER * len(arrays))(*(array.ctypes.data for array in arrays))


def inspect(library: Libcff, case: Case, image: CImage) -> Answer:
    """Inspect a case's image, described by `image`, through the public functions."""
    session, profile = library.session(case.bundle), library.profile(case.profile)
    result = library.made("cff_session_inspect", session, profile, ctypes.byref(image))
    try:
        info = ResultInfo(ctypes.sizeof(ResultInfo))
        library.call("cff_result_get_info", result, ctypes.byref(info))
        values = np.zeros((info.height, info.width), np.float32)
        library.call("cff_result_get_map", result, pointer(values), SIZE(values.size))
        regions = []
        for index in range(info.n_regions):
            region = CRegion(ctypes.sizeof(CRegion))
            library.call("cff_result_get_region", result, SIZE(index), ctypes.byref(region))
            regions.append(region_facts(region))
        facts = {
            "score": info.score,
            "text_score": None if math.isnan(info.text_score) else info.text_score,
            "verdict": VERDICTS[info.verdict],
            "regions": regions,
            "product_distance": info.product_distance,
            "warning": library.text("cff_result_get_text", result, WARNING) or None,
        }
        printed = json.loads(library.text("cff_result_get_text", result, JSON))
        for name in ("score", "text_score", "verdict", "regions", "warning"):
            assert printed[name] == facts[name], name
    finally:
        library.free("cff_result_free", result)
    return Answer({"map": values}, facts)


def region_facts(region: Any) -> dict[str, Any]:
    return {"area_px": region.area_px, "peak": region.peak, "box": list(region.box)}


def enroll(library: Libcff, case: EnrolmentCase, made: Path) -> None:
    """Make a profile and write it to `made`."""
    wishes = case.how["wishes"]
    options, kept = EnrollOptions(), []
    size = ctypes.c_uint32(ctypes.sizeof(options))
    library.call("cff_enroll_options_init", ctypes.byref(options), size)

    def images(paths: list[Path]) -> Any:
        pixels = [np.asarray(Image.open(path)) for path in paths]
        kept.append(pixels)
        return (CImage * len(pixels))(*map(as_image, pixels))

    if case.how["text_name"] is not None:
        options.text_name = case.how["text_name"].encode()
    for name in ("margin", "max_false_reject", "max_false_accept", "confidence", "max_bank"):
        if wishes[name] is not None:
            setattr(options, name, wishes[name])
    names = [path.name.encode() for path in case.references]
    options.names = (ctypes.c_char_p * len(names))(*names)
    options.further, options.n_further = images(case.further), len(case.further)
    options.defects, options.n_defects = images(case.defects), len(case.defects)
    profile = library.made(
        "cff_session_enroll",
        library.session(case.bundle),
        case.how["product"].encode(),
        images(case.references),
        SIZE(len(case.references)),
        ctypes.byref(options),
    )
    try:
        library.call("cff_profile_save", profile, str(made).encode())
    finally:
        library.free("cff_profile_free", profile)
