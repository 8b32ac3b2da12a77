"""libcff's stages one by one, through the functions that only its tests see."""

import ctypes
import json
import math
from typing import Any

import numpy as np
from cases import Answer, Case, profile_facts
from libcff import POINTER, SIZE, Libcff, as_image, pointer, pointers, region_facts
from numpy.typing import NDArray
from safetensors.numpy import load_file

MAX_STAGES = 16
DISTANCES = {"cosine": 0, "log": 1}
Floats = NDArray[np.float32]


class InnerRegion(ctypes.Structure):
    _fields_ = (
        ("area_px", ctypes.c_double),
        ("peak", ctypes.c_double),
        ("box", ctypes.c_int64 * 4),
    )


class Encoding(ctypes.Structure):
    _fields_ = (
        ("features", POINTER * MAX_STAGES),
        ("map", ctypes.POINTER(ctypes.c_float)),
        ("has_score", ctypes.c_bool),
        ("score", ctypes.c_double),
    )


class Grid(ctypes.Structure):
    _fields_ = (("height", SIZE), ("width", SIZE))


def inspect_stages(library: Libcff, case: Case) -> Answer:
    """Give every stage the answer that is expected of the one before."""
    manifest = json.loads((case.bundle / "manifest.json").read_text(encoding="utf-8"))
    tensors: dict[str, NDArray[Any]] = {"resized": _preprocess(library, case, manifest)}
    encoded, encoder_score = _encode_and_search(library, case, manifest)
    tensors.update(encoded)
    tensors.update(_finish(library, case, manifest))
    return Answer(tensors, {"text_score": encoder_score, "regions": _regions(library, case)})


def _preprocess(library: Libcff, case: Case, manifest: dict[str, Any]) -> NDArray[np.uint8]:
    size = manifest["preprocessing"]["height"], manifest["preprocessing"]["width"]
    resized = np.zeros((*size, 3), np.uint8)
    image = as_image(case.image)
    library.call(
        "cff__preprocess", ctypes.byref(image), pointer(resized), *(SIZE(side) for side in size)
    )
    return resized


def _encode_and_search(
    library: Libcff, case: Case, manifest: dict[str, Any]
) -> tuple[dict[str, Floats], float | None]:
    """Run the graphs on the expected pixels."""
    session, encoding = library.session(case.bundle), Encoding()
    profile = load_file(case.profile)
    pixels, condition = case.tensors["resized"], profile["condition"]
    library.call(
        "cff__encode", session, pointer(pixels), pointer(condition), ctypes.byref(encoding)
    )
    stages = range(len(manifest["stages"]))
    searched = range(len(manifest["scorers"]))
    banks = [profile[f"bank_{stage}"] for stage in searched]
    shapes = [(math.prod(stage["grid"]), stage["width"]) for stage in manifest["stages"]]
    features = [np.zeros(shape, np.float32) for shape in shapes]
    nearest = [np.zeros(shapes[stage][0], np.float32) for stage in searched]
    try:
        for stage, rows in enumerate(features):
            library.call(
                "cff__download", session, ctypes.byref(encoding), SIZE(stage), pointer(rows)
            )
        counts = (ctypes.c_int64 * len(banks))(*map(len, banks))
        kept = library.made("cff__banks_make", session, pointers(banks), counts)
        try:
            sets = (POINTER * 1)(kept)
            library.call(
                "cff__search", session, ctypes.byref(encoding), sets, SIZE(1), pointers(nearest)
            )
        finally:
            library.free("cff__banks_free", session, kept)
        shape = case.tensors["encoder_map"].shape
        encoder_map = np.ctypeslib.as_array(encoding.map, shape).copy()
        encoder_score = encoding.score if encoding.has_score else None
    finally:
        library.free("cff__encoding_free", session, ctypes.byref(encoding))
    found = {"encoder_map": encoder_map}
    found.update({f"features_{stage}": features[stage] for stage in stages})
    found.update({f"nearest_{stage}": nearest[stage] for stage in searched})
    return found, encoder_score


def _finish(library: Libcff, case: Case, manifest: dict[str, Any]) -> dict[str, Floats]:
    """Make distances and map from the expected cosines and encoder's map."""
    stages = range(len(manifest["scorers"]))
    nearest = [case.tensors[f"nearest_{stage}"] for stage in stages]
    kind, found = DISTANCES[manifest["distance"]], {}
    for stage in stages:
        plane = np.zeros_like(nearest[stage])
        library.free(
            "cff__stage_distance",
            pointer(nearest[stage]),
            SIZE(plane.size),
            kind,
            pointer(plane),
        )
        found[f"distance_{stage}"] = plane
    encoder_map = case.tensors["encoder_map"]
    grids = (Grid * len(stages))(*(Grid(*manifest["stages"][s]["grid"]) for s in stages))
    found["map"] = np.zeros_like(encoder_map)
    library.call(
        "cff__fuse_maps",
        pointers(nearest),
        grids,
        SIZE(len(stages)),
        kind,
        pointer(encoder_map),
        ctypes.c_float(manifest["map"]["weight"]),
        pointer(found["map"]),
        *(SIZE(side) for side in encoder_map.shape),
    )
    return found


def _regions(library: Libcff, case: Case) -> list[dict[str, Any]]:
    """Find regions in the expected map."""
    values, size = case.tensors["map"], case.image.shape[:2]
    facts = profile_facts(case.profile)
    found, n_found = ctypes.POINTER(InnerRegion)(), SIZE()
    library.call(
        "cff__find_regions",
        pointer(values),
        *(SIZE(side) for side in values.shape),
        ctypes.c_double(facts["threshold"]["pixel_value"]),
        *(SIZE(side) for side in size),
        ctypes.byref(found),
        ctypes.byref(n_found),
    )
    regions = [region_facts(found[index]) for index in range(n_found.value)]
    free = ctypes.CDLL(None).free
    free.argtypes, free.restype = [POINTER], None
    free(found)
    return regions
