"""Inspecting in C: scores, maps, verdicts, regions and JSON of the Python runtime."""

import ctypes
import json
import locale
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cff_runtime import Bundle, Inspector, Profile, Result
from cff_runtime.imaging import list_images, load_image

TOLERANCE = 1e-5  # of maps and scores; float32 sums in another order
VERDICTS = ("pass", "review", "reject")
RGB, BGR, RGBA, GREY = range(4)

Picture = NDArray[np.uint8]


def _same_result(ours: Any, theirs: Result) -> None:
    """Compare everything that a result tells, but for times."""
    np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, atol=TOLERANCE, rtol=0)
    assert ours.info.score == pytest.approx(theirs.score, abs=TOLERANCE)
    assert VERDICTS[ours.info.verdict] == theirs.verdict
    assert ours.info.threshold == theirs.threshold
    assert (ours.info.height, ours.info.width) == theirs.anomaly_map.shape
    if theirs.text_score is None:
        assert np.isnan(ours.info.text_score)
    else:
        assert ours.info.text_score == pytest.approx(theirs.text_score, abs=TOLERANCE)
    assert ours.warning == (theirs.warning or "")
    assert len(ours.regions) == len(theirs.regions)
    for region, other in zip(ours.regions, theirs.regions, strict=True):
        assert (region.x, region.y, region.width, region.height) == other.box
        assert region.area_px == pytest.approx(other.area_px, rel=1e-12)
        assert region.peak == pytest.approx(other.peak, abs=TOLERANCE)
    _same_json(ours, theirs)


def _same_json(ours: Any, theirs: Result) -> None:
    said, expected = ours.json, json.loads(json.dumps(theirs.to_dict()))
    assert json.dumps(said) == ours.json_text  # spaces, numbers and texts as Python writes them
    assert list(said) == list(expected)
    assert list(said["stages_ms"]) == list(expected["stages_ms"])
    times = said["stages_ms"].values()
    assert all(ms == round(ms, 3) and ms >= 0 for ms in times)
    assert said["total_ms"] == pytest.approx(sum(times), abs=0.003)
    for region, other in zip(said["regions"], expected["regions"], strict=True):
        assert list(region) == list(other)
        assert region["box"] == other["box"]
        assert region["area_px"] == pytest.approx(other["area_px"], rel=1e-12)
        assert region["peak"] == pytest.approx(other["peak"], abs=TOLERANCE)
    for field in ("score", "text_score"):
        assert said[field] == pytest.approx(expected[field], abs=TOLERANCE)
    for field in ("verdict", "threshold", "review_threshold", "warning"):
        assert said[field] == expected[field]


def _images(draw_part: Callable[..., Picture]) -> dict[str, Picture]:
    rng = np.random.default_rng(8)
    bad = draw_part(100, defective=True)
    return {
        "good": draw_part(50),
        "bad": bad,
        "noise": rng.integers(0, 256, (300, 211, 3), dtype=np.uint8),
        "smallest": np.ascontiguousarray(bad[:16, :16]),
        "wide": np.tile(bad, (1, 9, 1)),
        "black": np.zeros((96, 96, 3), np.uint8),
        "of the encoder's size": draw_part(51)[:96, :96],
    }


@pytest.fixture(scope="module", params=[1, 2, 4])
def enrolled(
    request: pytest.FixtureRequest,
    lite_inspector: Inspector,
    good_parts: list[Picture],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Profile, Path]:
    """A profile of K parts and its file."""
    profile = lite_inspector.enroll(good_parts[: request.param], "Ring „Größe 3“")
    path = tmp_path_factory.mktemp("enrolled") / "profile.safetensors"
    profile.save(path)
    return profile, path


def test_results_are_python_s(
    enrolled: tuple[Profile, Path],
    c_lite_session: Any,
    lite_inspector: Inspector,
    draw_part: Callable[..., Picture],
) -> None:
    profile, path = enrolled
    handle = c_lite_session.load(path)

    verdicts, warnings = set(), set()
    for image in _images(draw_part).values():
        expected = lite_inspector.inspect(image, profile)
        _same_result(c_lite_session.inspect(handle, image), expected)
        verdicts.add(expected.verdict)
        warnings.add(expected.warning is None)
    assert verdicts == {"pass", "reject"}
    assert warnings == {True, False}


@pytest.fixture(scope="module")
def tower_bundle(
    lite_bundle: Bundle,
    edit_manifest: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle whose encoder gives a text score, too: a sigmoid of the text map's mean."""
    folder = tmp_path_factory.mktemp("tower") / "bundle"
    shutil.copytree(lite_bundle.path, folder)
    model = onnx.load(folder / "encoder.fp32.onnx")
    axes = numpy_helper.from_array(np.array([1, 2]), "text_score_axes")
    model.graph.initializer.append(axes)
    mean = helper.make_node(
        "ReduceMean", ["text_map", "text_score_axes"], ["text_mean"], keepdims=0
    )
    model.graph.node.extend([mean, helper.make_node("Sigmoid", ["text_mean"], ["text_score"])])
    model.graph.output.append(
        helper.make_tensor_value_info("text_score", TensorProto.FLOAT, ["batch"])
    )
    onnx.save(model, folder / "encoder.fp32.onnx")

    def edit(fields: dict[str, Any]) -> None:
        fields["score"]["output"] = "text_score"
        fields["distance"] = "cosine" if fields["distance"] == "log" else "log"

    edit_manifest(folder, edit, rehash=True)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def tower_session(
    c_library: ctypes.CDLL, c_session_class: Any, tower_bundle: Bundle
) -> Iterator[Any]:
    session = c_session_class(c_library, tower_bundle.path)
    yield session
    session.close()


def test_results_with_a_text_tower_and_the_other_distance_are_python_s(
    tower_bundle: Bundle,
    tower_session: Any,
    good_parts: list[Picture],
    draw_part: Callable[..., Picture],
    tmp_path: Path,
) -> None:
    inspector = Inspector.open(tower_bundle.path)
    profile = inspector.enroll(good_parts, "ring")
    profile.save(tmp_path / "ring.safetensors")
    handle = tower_session.load(tmp_path / "ring.safetensors")

    for image in _images(draw_part).values():
        expected = inspector.inspect(image, profile)
        assert expected.text_score is not None
        _same_result(tower_session.inspect(handle, image), expected)


def test_a_band_for_review_is_told(
    lite_profile: Profile,
    lite_inspector: Inspector,
    c_lite_session: Any,
    bad_part: Picture,
    tmp_path: Path,
) -> None:
    score = lite_inspector.inspect(bad_part, lite_profile).score
    limits = replace(lite_profile.threshold, value=score + 1.0, review=score - 1.0)
    profile = replace(lite_profile, threshold=limits)
    profile.save(tmp_path / "review.safetensors")

    ours = c_lite_session.inspect(c_lite_session.load(tmp_path / "review.safetensors"), bad_part)

    assert ours.json["verdict"] == "review"
    assert ours.info.review_threshold == limits.review
    _same_result(ours, lite_inspector.inspect(bad_part, profile))


@pytest.mark.parametrize("padding", [0, 1, 13])
@pytest.mark.parametrize("kind", [RGB, BGR, RGBA, GREY])
def test_every_layout_of_pixels_is_the_same_image(
    kind: int,
    padding: int,
    c_lite_session: Any,
    lite_profile_path: Path,
    bad_part: Picture,
) -> None:
    """Also where rows are apart, and where nothing is aligned."""
    handle = c_lite_session.load(lite_profile_path)
    picture = bad_part if kind != GREY else np.repeat(bad_part[:, :, :1], 3, axis=2)
    expected = c_lite_session.inspect(handle, picture)
    height, width, _ = picture.shape
    alpha = np.full((height, width, 1), 7, np.uint8)
    given = {
        RGB: picture,
        BGR: picture[:, :, ::-1],
        RGBA: np.concatenate([picture, alpha], axis=2),
        GREY: picture[:, :, :1],
    }[kind]
    stride = given.shape[2] * width + padding
    raw = np.full(1 + height * stride, 99, np.uint8)
    rows = raw[1:].reshape(height, stride)
    rows[:, : given.shape[2] * width] = given.reshape(height, -1)
    image = c_lite_session.Image(raw.ctypes.data + 1, width, height, stride, kind)

    ours = c_lite_session.inspect_image(handle, image)

    assert np.array_equal(ours.anomaly_map, expected.anomaly_map)
    assert ours.info.score == expected.info.score


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixels": None}, "pixels"),
        ({"width": 15}, "16"),
        ({"height": 15}, "16"),
        ({"width": 0}, ""),
        ({"height": -1}, ""),
        ({"width": 0x7FFFFFFF, "height": 0x7FFFFFFF, "stride": 0x7FFFFFFF * 3}, ""),
        ({"width": 1 << 22, "stride": 3 << 22}, ""),
        ({"stride": 3 * 150 - 1}, "stride"),
        ({"stride": 0}, "stride"),
        ({"stride": (1 << 64) - 1}, ""),
        ({"format": 4}, "format"),
        ({"format": -1}, "format"),
    ],
)
def test_an_image_that_cannot_be_is_refused(
    fields: dict[str, Any],
    words: str,
    c_lite_session: Any,
    c_status: SimpleNamespace,
    lite_profile_path: Path,
    bad_part: Picture,
) -> None:
    handle = c_lite_session.load(lite_profile_path)
    height, width, _ = bad_part.shape
    image = c_lite_session.Image(bad_part.ctypes.data, width, height, 3 * width, RGB)
    for name, value in fields.items():
        setattr(image, name, value)

    with pytest.raises(c_lite_session.Error) as failure:
        c_lite_session.inspect_image(handle, image)

    assert failure.value.status in (c_status.IMAGE, c_status.USAGE)
    assert words in str(failure.value)


def test_a_profile_of_another_bundle_is_refused(
    tower_session: Any,
    c_status: SimpleNamespace,
    lite_profile_path: Path,
    bad_part: Picture,
) -> None:
    handle = tower_session.load(lite_profile_path)

    with pytest.raises(tower_session.Error, match="belongs to bundle") as failure:
        tower_session.inspect(handle, bad_part)

    assert failure.value.status == c_status.MISMATCH


def test_null_is_a_wrong_call(
    c_library: ctypes.CDLL,
    c_lite_session: Any,
    c_status: SimpleNamespace,
    lite_profile_path: Path,
    bad_part: Picture,
) -> None:
    session, profile = c_lite_session.handle, c_lite_session.load(lite_profile_path)
    height, width, _ = bad_part.shape
    image = c_lite_session.Image(bad_part.ctypes.data, width, height, 3 * width, RGB)
    given = [session, profile, ctypes.byref(image)]
    for place in range(3):
        result = ctypes.c_void_p(1)
        arguments = [None if i == place else one for i, one in enumerate(given)]
        assert c_library.cff_session_inspect(*arguments, ctypes.byref(result)) == c_status.USAGE
        assert result.value is None
    assert c_library.cff_session_inspect(*given, None) == c_status.USAGE
    for name in ("get_info", "get_map", "get_region", "get_text"):
        assert getattr(c_library, f"cff_result_{name}")(None, None, None) == c_status.USAGE
    c_library.cff_result_free(None)


def test_what_does_not_fit_a_buffer_is_refused(
    c_library: ctypes.CDLL,
    c_lite_session: Any,
    c_status: SimpleNamespace,
    lite_profile_path: Path,
    bad_part: Picture,
) -> None:
    profile = c_lite_session.load(lite_profile_path)
    height, width, _ = bad_part.shape
    image = c_lite_session.Image(bad_part.ctypes.data, width, height, 3 * width, RGB)
    result = ctypes.c_void_p()
    assert (
        c_library.cff_session_inspect(
            c_lite_session.handle, profile, ctypes.byref(image), ctypes.byref(result)
        )
        == 0
    )
    values = (ctypes.c_float * 96 * 96)()
    small = ctypes.c_size_t(96 * 96 - 1)
    text = ctypes.create_string_buffer(3)
    region = (ctypes.c_uint32 * 20)(64)

    assert c_library.cff_result_get_map(result, values, small) == c_status.BUFFER
    assert c_library.cff_result_get_map(result, None, small) == c_status.USAGE
    assert c_library.cff_result_get_text(result, 0, text, ctypes.c_size_t(3), None) == (
        c_status.BUFFER
    )
    assert c_library.cff_result_get_text(result, 0, None, ctypes.c_size_t(0), None) == (
        c_status.USAGE
    )
    for which in (-1, 2):
        assert c_library.cff_result_get_text(result, which, text, ctypes.c_size_t(3), None) == (
            c_status.USAGE
        )
    for index in (2, (1 << 64) - 1):
        assert c_library.cff_result_get_region(result, ctypes.c_size_t(index), region) == (
            c_status.USAGE
        )
    region[0] = 0
    assert c_library.cff_result_get_region(result, ctypes.c_size_t(0), region) == c_status.USAGE
    c_library.cff_result_free(result)


def test_a_score_that_is_not_finite_is_an_error(
    c_library: ctypes.CDLL,
    c_session_class: Any,
    c_status: SimpleNamespace,
    bundle_copy: Path,
    edit_manifest: Callable[..., None],
    good_parts: list[Picture],
    tmp_path: Path,
) -> None:
    """An encoder that divides by zero where an image is black."""
    path = bundle_copy / "encoder.fp32.onnx"
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["plain_map" if name == "text_map" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "all_pixels"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.0), "one"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["image_f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["image_f", "all_pixels"], ["brightest"], keepdims=0),
            helper.make_node("Div", ["brightest", "brightest"], ["one_or_nan"]),
            helper.make_node("Mul", ["plain_map", "one_or_nan"], ["text_map"]),
        ]
    )
    path.unlink()
    onnx.save(model, path)
    edit_manifest(bundle_copy, rehash=True)
    inspector = Inspector.open(bundle_copy)
    inspector.enroll(good_parts[:2], "ring").save(tmp_path / "ring.safetensors")
    session = c_session_class(c_library, bundle_copy)
    handle = session.load(tmp_path / "ring.safetensors")

    session.inspect(handle, good_parts[3])
    with pytest.raises(session.Error, match="score must be finite") as failure:
        session.inspect(handle, np.zeros((64, 64, 3), np.uint8))

    assert failure.value.status == c_status.BACKEND
    session.close()


@pytest.mark.parametrize("name", ["de_DE", "ps_AF"])
def test_numbers_have_a_point_in_every_locale(
    name: str,
    c_lite_session: Any,
    lite_inspector: Inspector,
    lite_profile: Profile,
    lite_profile_path: Path,
    draw_part: Callable[..., Picture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comma, and a sign of two bytes."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed, no locale with a decimal comma can be made")
    made = tmp_path / f"{name}.UTF-8"
    command = ["localedef", "-i", name, "-f", "UTF-8", str(made)]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode > 1:
        pytest.skip(f"this system cannot make {name}")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    image = _images(draw_part)["noise"]
    handle = c_lite_session.load(lite_profile_path)
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, f"{name}.UTF-8")
        assert locale.localeconv()["decimal_point"] != "."
        ours = c_lite_session.inspect(handle, image)
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)

    assert "differs from the references by" in ours.warning
    _same_result(ours, lite_inspector.inspect(image, lite_profile))


@pytest.mark.parametrize("value", [0.05, 0.25, 0.35, 2.5, -0.0, 9.95, 1e14 + 0.4, 123456.75, 17.0])
def test_tenths_are_python_s(value: float, c_internals: ctypes.CDLL) -> None:
    text = ctypes.create_string_buffer(64)
    c_internals.cff__format_tenths(ctypes.c_double(value), text)

    assert text.value.decode() == f"{value:.1f}"


def test_what_is_not_finite_has_no_tenths(c_internals: ctypes.CDLL) -> None:
    text = ctypes.create_string_buffer(64)
    for value in (float("inf"), -float("inf"), float("nan"), 1e300):
        c_internals.cff__format_tenths(ctypes.c_double(value), text)
        assert text.value in (b"more than 1e15", b"nan")


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
@pytest.mark.parametrize("product", ["bottle", "metal_nut", "transistor"])
def test_results_of_real_parts_are_python_s(
    product: str, c_lite_session: Any, lite_inspector: Inspector, tmp_path: Path
) -> None:
    folder = Path(os.environ["CFF_DATA"]) / "mvtec_mini" / product
    profile = lite_inspector.enroll(list_images([folder / "train/good"])[:4], product)
    profile.save(tmp_path / "profile.safetensors")
    handle = c_lite_session.load(tmp_path / "profile.safetensors")

    files = list_images(sorted((folder / "test").iterdir()))[::2]
    images = [load_image(path) for path in files]
    assert len(images) > 5
    for image in images:
        _same_result(c_lite_session.inspect(handle, image), lite_inspector.inspect(image, profile))
