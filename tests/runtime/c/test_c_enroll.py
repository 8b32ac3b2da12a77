"""Enrolling in C: profiles of the Python runtime, but for dates and the last digits."""

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.imaging import load_image

TOLERANCE = 1e-5  # of scores and map values; float32 sums in another order
RGB = 0

Picture = NDArray[np.uint8]
Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


class COptions(ctypes.Structure):
    """`cff_enroll_options`."""

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
        ("further", ctypes.c_void_p),
        ("n_further", ctypes.c_size_t),
        ("defects", ctypes.c_void_p),
        ("n_defects", ctypes.c_size_t),
        ("progress", Progress),
        ("user", ctypes.c_void_p),
    )


class Enroller:
    """A session's three functions that make profiles, for tests."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self._library = session.library
        self._kept: list[Any] = []  # what C looks at

    def close(self) -> None:
        self._kept.clear()

    def images(self, pictures: Sequence[Picture]) -> Any:
        """An array of `cff_image`."""
        if not pictures:
            return None
        solid = [np.ascontiguousarray(picture) for picture in pictures]
        made = (self.session.Image * len(solid))(
            *[
                self.session.Image(one.ctypes.data, one.shape[1], one.shape[0], 3 * one.shape[1], 0)
                for one in solid
            ]
        )
        self._kept += [solid, made]
        return made

    def options(
        self,
        further: Sequence[Picture] = (),
        defects: Sequence[Picture] = (),
        names: Sequence[bytes | None] | None = None,
        **fields: Any,
    ) -> COptions:
        options = COptions()
        size = ctypes.c_uint32(ctypes.sizeof(options))
        self.session.check(self._library.cff_enroll_options_init(ctypes.byref(options), size))
        options.n_further, options.n_defects = len(further), len(defects)
        options.further = ctypes.cast(self.images(further), ctypes.c_void_p)
        options.defects = ctypes.cast(self.images(defects), ctypes.c_void_p)
        if names is not None:
            options.names = (ctypes.c_char_p * len(names))(*names)
        for field, value in fields.items():
            setattr(options, field, value)
        self._kept.append(options)
        return options

    def call(self, function: str, *arguments: Any) -> ctypes.c_void_p:
        """Call one of the functions; the profile is freed with the session."""
        profile = ctypes.c_void_p(1)
        status = getattr(self._library, function)(
            self.session.handle, *arguments, ctypes.byref(profile)
        )
        assert (status == 0) == bool(profile)
        self.session.check(status)
        self.session._profiles.append(profile)
        return profile

    def enroll(
        self, pictures: Sequence[Picture], product: str | None = "ring", **fields: Any
    ) -> ctypes.c_void_p:
        options = self.options(**fields)
        name = None if product is None else product.encode()
        given = self.images(pictures)
        count = ctypes.c_size_t(len(pictures))
        return self.call("cff_session_enroll", name, given, count, ctypes.byref(options))

    def add(
        self, profile: ctypes.c_void_p, pictures: Sequence[Picture], **fields: Any
    ) -> ctypes.c_void_p:
        options = self.options(**fields)
        count = ctypes.c_size_t(len(pictures))
        arguments = [self.images(pictures), count, ctypes.byref(options)]
        return self.call("cff_session_add_normals", profile, *arguments)

    def remove(self, profile: ctypes.c_void_p, index: int, **fields: Any) -> ctypes.c_void_p:
        options = self.options(**fields)
        arguments = [ctypes.c_size_t(index), ctypes.byref(options)]
        return self.call("cff_session_remove_reference", profile, *arguments)

    def save(self, profile: ctypes.c_void_p, path: Path) -> Profile:
        """Save a profile and read it in Python."""
        self.session.check(self._library.cff_profile_save(profile, str(path).encode()))
        return Profile.load(path)


@pytest.fixture(scope="module")
def tower_bundle(
    lite_bundle: Bundle,
    edit_manifest: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle whose encoder gives a text score, too, and sums its stages the other way."""
    folder = tmp_path_factory.mktemp("tower") / "bundle"
    shutil.copytree(lite_bundle.path, folder)
    model = onnx.load(folder / "encoder.fp32.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "text_score_axes"))
    given = ["text_map", "text_score_axes"]
    mean = helper.make_node("ReduceMean", given, ["text_mean"], keepdims=0)
    model.graph.node.extend([mean, helper.make_node("Sigmoid", ["text_mean"], ["text_score"])])
    output = helper.make_tensor_value_info("text_score", TensorProto.FLOAT, ["batch"])
    model.graph.output.append(output)
    onnx.save(model, folder / "encoder.fp32.onnx")

    def edit(fields: dict[str, Any]) -> None:
        fields["score"]["output"] = "text_score"
        fields["distance"] = "cosine" if fields["distance"] == "log" else "log"

    edit_manifest(folder, edit, rehash=True)
    return Bundle.open(folder)


@pytest.fixture(scope="module", params=["lite", "tower"])
def pair(
    request: pytest.FixtureRequest, c_library: ctypes.CDLL, c_session_class: Any
) -> Iterator[tuple[Enroller, Inspector]]:
    """Both runtimes, without and with a text tower."""
    bundle = request.getfixturevalue(f"{request.param}_bundle")
    session = c_session_class(c_library, bundle.path, n_threads=2)
    enroller = Enroller(session)
    yield enroller, Inspector.open(bundle.path)
    session.close()
    enroller.close()


@pytest.fixture
def enroller(c_lite_session: Any) -> Iterator[Enroller]:
    made = Enroller(c_lite_session)
    yield made
    made.close()


def assert_close(ours: Any, theirs: Any, where: str = "") -> None:
    """Equal JSON, but for the last digits of numbers, and for dates."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            if key in ("at", "date"):
                assert len(ours[key]) == len(theirs[key]) and ours[key][10] == "T"
            else:
                assert_close(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, f"{where}[{index}]")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, abs=TOLERANCE), where
    else:
        assert ours == theirs, where


def assert_same_profile(ours: Profile, theirs: Profile) -> None:
    for name in ("product", "bundle_id", "condition_name", "origin", "n_references"):
        assert getattr(ours, name) == getattr(theirs, name)
    for one, other in zip(ours.references, theirs.references, strict=True):
        assert replace(one, added="") == replace(other, added="")
        assert len(one.added) == len(other.added) == 25 and one.added.endswith("+00:00")
    assert np.array_equal(ours.reference_images, theirs.reference_images)
    assert np.array_equal(ours.condition, theirs.condition)
    for kind in ("banks", "means"):
        for one, other in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    # Python's cosines are float32; the logarithm multiplies what they lost by up to 100
    assert ours.product_limit == pytest.approx(theirs.product_limit, abs=5e-5)
    for name in ("threshold", "display_range", "peak_scale"):
        assert_close(_plain(getattr(ours, name)), _plain(getattr(theirs, name)), name)
    assert_close(_plain(ours.compression), _plain(theirs.compression))
    histories = [_plain(list(profile.history)) for profile in (ours, theirs)]
    assert_close(*histories)


def _plain(facts: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(facts, default=lambda one: vars(one)))


def assert_same_results(
    enroller: Enroller,
    profile: ctypes.c_void_p,
    inspector: Inspector,
    expected: Profile,
    pictures: Sequence[Picture],
) -> None:
    for picture in pictures:
        ours = enroller.session.inspect(profile, picture)
        theirs = inspector.inspect(picture, expected)
        assert ours.info.score == pytest.approx(theirs.score, abs=TOLERANCE)
        assert ours.json["verdict"] == theirs.verdict
        assert (ours.warning == "") == (theirs.warning is None)
        np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("n_references", [1, 2, 4])
def test_profiles_are_python_s(
    pair: tuple[Enroller, Inspector],
    n_references: int,
    good_parts: list[Picture],
    bad_part: Picture,
    draw_part: Callable[..., Picture],
    tmp_path: Path,
) -> None:
    enroller, inspector = pair
    expected = inspector.enroll(good_parts[:n_references], "Ring „Größe 3“")

    profile = enroller.enroll(good_parts[:n_references], "Ring „Größe 3“")

    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert_same_profile(saved, expected)
    assert saved.settings == {
        "margin": 0.2,
        "max_false_reject": None,
        "max_false_accept": None,
        "confidence": 0.95,
        "max_bank": None,
    }
    noise = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    pictures = [draw_part(40), bad_part, noise]
    assert_same_results(enroller, profile, inspector, expected, pictures)
    assert_same_results(enroller, profile, inspector, saved, pictures)
    loaded = enroller.session.load(tmp_path / "profile.safetensors")
    for picture in pictures:
        again = enroller.session.inspect(loaded, picture)
        assert again.info.score == enroller.session.inspect(profile, picture).info.score


def test_all_options(
    pair: tuple[Enroller, Inspector],
    good_parts: list[Picture],
    draw_part: Callable[..., Picture],
    tmp_path: Path,
) -> None:
    enroller, inspector = pair
    further = [draw_part(seed) for seed in range(20, 32)]
    defects = [draw_part(seed, defective=True) for seed in range(100, 106)]
    wishes: dict[str, Any] = {"max_false_reject": 0.3, "max_false_accept": 0.45, "confidence": 0.9}
    expected = inspector.enroll(
        good_parts[:2], "ring", "bottle", 0.5, further=further, defects=defects, wishes=wishes
    )

    profile = enroller.enroll(
        good_parts[:2],
        further=further,
        defects=defects,
        text_name=b"bottle",
        margin=0.5,
        **wishes,
    )

    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert_same_profile(saved, expected)
    assert saved.settings == expected.settings
    assert saved.threshold.method == "further-parts"
    assert len(saved.threshold.scores) == 10


@pytest.mark.parametrize(("n_references", "max_bank"), [(1, 30), (3, 100), (3, 60), (4, 576)])
def test_compressed_banks(
    pair: tuple[Enroller, Inspector],
    n_references: int,
    max_bank: int,
    good_parts: list[Picture],
    draw_part: Callable[..., Picture],
    tmp_path: Path,
) -> None:
    """Banks above, below and at the limit."""
    enroller, inspector = pair
    further = [draw_part(30)]
    expected = inspector.enroll(
        good_parts[:n_references], "ring", max_bank=max_bank, further=further
    )

    profile = enroller.enroll(good_parts[:n_references], max_bank=max_bank, further=further)

    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert_same_profile(saved, expected)
    assert saved.settings["max_bank"] == max_bank
    assert (saved.compression is None) == (max_bank == 576)
    assert max(map(len, saved.banks)) == min(max_bank, 144 * n_references)


def test_names_and_words(
    enroller: Enroller, lite_inspector: Inspector, good_parts: list[Picture], tmp_path: Path
) -> None:
    names = ['Teil „ä“ \\ "1".png', "", "2.png"]
    profile = enroller.enroll(good_parts[:3], "bottle", names=[n.encode() for n in names])
    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert [reference.name for reference in saved.references] == names
    assert saved.condition_name == "bottle"  # a class word of the bundle
    assert [reference.size for reference in saved.references] == [(150, 120)] * 3
    other = enroller.save(enroller.enroll(good_parts[:1]), tmp_path / "other.safetensors")
    assert other.condition_name == "object"
    assert [reference.name for reference in other.references] == ["image 1"]


def test_files_are_python_s(
    enroller: Enroller,
    lite_inspector: Inspector,
    draw_part: Callable[..., Picture],
    tmp_path: Path,
) -> None:
    """Images of other sizes and layouts, as a camera gives them."""
    from PIL import Image

    paths = []
    for seed, size in enumerate([(640, 480), (97, 203)]):
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(draw_part(seed)).resize(size).save(paths[-1])
    expected = lite_inspector.enroll(paths, "ring")
    bgr = [np.ascontiguousarray(load_image(path)[:, :, ::-1]) for path in paths]
    images = enroller.images(bgr)
    for image in images:
        image.format = 1
    options = enroller.options(names=[path.name.encode() for path in paths])
    arguments = [b"ring", images, ctypes.c_size_t(2), ctypes.byref(options)]
    profile = enroller.call("cff_session_enroll", *arguments)
    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert_same_profile(saved, expected)


def test_without_options(
    enroller: Enroller, lite_profile: Profile, good_parts: list[Picture], tmp_path: Path
) -> None:
    arguments = [b"ring", enroller.images(good_parts), ctypes.c_size_t(4), None]
    profile = enroller.call("cff_session_enroll", *arguments)
    saved = enroller.save(profile, tmp_path / "profile.safetensors")
    assert_same_profile(saved, lite_profile)


def test_options_of_an_older_program(enroller: Enroller, good_parts: list[Picture]) -> None:
    """What lies beyond its struct is not read."""
    options = enroller.options(margin=0.0, max_bank=-7, confidence=9.0)
    options.struct_size = COptions.confidence.offset
    arguments = [b"ring", enroller.images(good_parts[:1]), ctypes.c_size_t(1)]
    enroller.call("cff_session_enroll", *arguments, ctypes.byref(options))


def test_default_options(c_library: ctypes.CDLL) -> None:
    options = COptions()
    ctypes.memset(ctypes.byref(options), 0xA5, ctypes.sizeof(options))
    size = ctypes.c_uint32(ctypes.sizeof(options))
    assert c_library.cff_enroll_options_init(ctypes.byref(options), size) == 0
    assert (options.struct_size, options.margin, options.confidence) == (size.value, 0.2, 0.95)
    assert (options.max_false_reject, options.max_false_accept, options.max_bank) == (0, 0, 0)
    assert not options.names and not options.further and not options.defects
    assert not options.progress and options.text_name is None and options.reserved == 0
    assert c_library.cff_enroll_options_init(None, size) == 1
    assert c_library.cff_enroll_options_init(ctypes.byref(options), ctypes.c_uint32(3)) == 1


def test_progress(
    enroller: Enroller, good_parts: list[Picture], draw_part: Callable[..., Picture]
) -> None:
    told: list[tuple[int, int, int]] = []

    def tell(user: int, n_done: int, n_images: int) -> int:
        told.append((user, n_done, n_images))
        return 0

    enroller.enroll(
        good_parts[:2],
        further=[draw_part(9)],
        defects=[draw_part(100, defective=True)],
        progress=Progress(tell),
        user=77,
    )
    assert told == [(77, done, 12) for done in range(1, 13)]


@pytest.mark.parametrize("last", [1, 2, 3, 10, 11, 12])
def test_progress_stops(
    enroller: Enroller, good_parts: list[Picture], draw_part: Callable[..., Picture], last: int
) -> None:
    stop = Progress(lambda user, n_done, n_images: int(n_done == last))
    with pytest.raises(enroller.session.Error, match=f"after {last} of 12 images") as caught:
        enroller.enroll(
            good_parts[:2],
            further=[draw_part(9)],
            defects=[draw_part(100, defective=True)],
            progress=stop,
        )
    assert caught.value.status == 1


@pytest.mark.parametrize("max_bank", [0, 120])
def test_adding_and_removing(
    pair: tuple[Enroller, Inspector],
    good_parts: list[Picture],
    draw_part: Callable[..., Picture],
    max_bank: int,
    tmp_path: Path,
) -> None:
    """Each runtime goes on from the other's profiles."""
    enroller, inspector = pair
    further = [draw_part(seed) for seed in range(20, 24)]
    defects = [draw_part(100, defective=True)]
    wishes: dict[str, Any] = {"max_false_accept": 0.9, "confidence": 0.8}
    theirs = inspector.enroll(
        good_parts[:2],
        "ring",
        margin=0.4,
        defects=defects,
        wishes=wishes,
        max_bank=max_bank or None,
    )
    ours = enroller.enroll(good_parts[:2], margin=0.4, defects=defects, max_bank=max_bank, **wishes)
    theirs.save(tmp_path / "theirs")
    from_c = enroller.save(ours, tmp_path / "ours")
    images: dict[str, Any] = {"further": further, "defects": defects}

    expected = inspector.add_normals(theirs, good_parts[2:], **images)
    loaded = enroller.session.load(tmp_path / "theirs")
    for profile in (ours, loaded):
        extended = enroller.add(profile, good_parts[2:], **images)
        saved = enroller.save(extended, tmp_path / "extended")
        assert_same_profile(saved, expected)
        assert saved.history[-1]["added"] == ["image 1", "image 2"]
    assert saved.settings == expected.settings
    assert_same_profile(inspector.add_normals(from_c, good_parts[2:], **images), expected)

    smaller = inspector.remove_reference(expected, "2", **images)
    removed = enroller.save(enroller.remove(extended, 1, **images), tmp_path / "smaller")
    assert_same_profile(removed, smaller)
    assert [entry["action"] for entry in removed.history] == ["enroll", "add-normals", "remove"]
    assert_same_profile(inspector.remove_reference(saved, "2", **images), smaller)


def test_removing_down_to_the_last(
    enroller: Enroller, lite_inspector: Inspector, good_parts: list[Picture], tmp_path: Path
) -> None:
    profile = enroller.enroll(good_parts[:3], names=[b"a", b"b", b"c"])
    last = enroller.remove(enroller.remove(profile, 0), 1)
    saved = enroller.save(last, tmp_path / "last")
    assert [reference.name for reference in saved.references] == ["b"]
    expected = lite_inspector.enroll([good_parts[1]], "ring")
    assert_same_profile(
        replace(saved, history=expected.history, references=expected.references), expected
    )
    with pytest.raises(enroller.session.Error, match="at least one reference") as caught:
        enroller.remove(last, 0)
    assert caught.value.status == 1


def test_what_is_not_kept_is_not_needed(
    enroller: Enroller, good_parts: list[Picture], tmp_path: Path
) -> None:
    """A profile made by hand, without settings and history."""
    profile = enroller.save(enroller.enroll(good_parts[:1]), tmp_path / "one")
    bare = replace(profile, settings={"margin": None, "max_bank": None}, history=())
    bare.save(tmp_path / "bare")
    handle = enroller.session.load(tmp_path / "bare")
    saved = enroller.save(enroller.add(handle, good_parts[1:2]), tmp_path / "two")
    assert [entry["action"] for entry in saved.history] == ["add-normals"]
    assert saved.settings == {"margin": None, "max_bank": None}
    assert saved.threshold.value == pytest.approx(max(saved.threshold.scores))  # margin 0


def test_adding_refuses(
    pair: tuple[Enroller, Inspector],
    good_parts: list[Picture],
    lite_profile: Profile,
    c_status: SimpleNamespace,
    tmp_path: Path,
) -> None:
    enroller, _ = pair
    error = enroller.session.Error
    profile = enroller.enroll(good_parts[:2])
    saved = enroller.save(profile, tmp_path / "profile")
    with pytest.raises(error, match="at least one good part") as caught:
        enroller.add(profile, [])
    assert caught.value.status == c_status.USAGE
    for index in (2, 1 << 60):
        with pytest.raises(error, match=f"below the 2 references, got {index}") as caught:
            enroller.remove(profile, index)
        assert caught.value.status == c_status.USAGE
    with pytest.raises(error, match=r"images\[1\]: .*at least 16 x 16") as caught:
        enroller.add(profile, [good_parts[0], good_parts[1][:9]])
    assert caught.value.status == c_status.IMAGE

    images = saved.reference_images.copy()
    images[1, 5, 7, 0] ^= 1
    replace(saved, reference_images=images).save(tmp_path / "damaged")
    replace(saved, bundle_id="0" * 64).save(tmp_path / "other")
    for name, sentence, status in (
        ("damaged", "`image 2` must have the hash", c_status.PROFILE),
        ("other", "belongs to bundle 000000000000", c_status.MISMATCH),
    ):
        handle = enroller.session.load(tmp_path / name)
        with pytest.raises(error, match=sentence) as caught:
            enroller.add(handle, good_parts[2:])
        assert caught.value.status == status
        with pytest.raises(error, match=sentence) as caught:
            enroller.remove(handle, 0)
        assert caught.value.status == status


def test_adding_without_the_defects_of_a_wish(
    enroller: Enroller, good_parts: list[Picture], bad_part: Picture
) -> None:
    profile = enroller.enroll(good_parts[:2], defects=[bad_part], max_false_accept=0.5)
    with pytest.raises(enroller.session.Error, match="must come with defective parts") as caught:
        enroller.add(profile, good_parts[2:])
    assert caught.value.status == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"margin": -0.1}, "`margin` must be 0 to 100"),
        ({"margin": float("nan")}, "`margin` must be 0 to 100"),
        ({"margin": float("inf")}, "`margin` must be 0 to 100"),
        ({"max_false_reject": 1.0}, "`max_false_reject` must be above 0 and below 1"),
        ({"max_false_reject": float("nan")}, "`max_false_reject` must be above 0"),
        ({"max_false_accept": -0.5}, "`max_false_accept` must be above 0"),
        ({"max_false_accept": 0.5}, "must come with defective parts"),
        ({"confidence": 0.0}, "`confidence` must be above 0"),
        ({"confidence": 1.0}, "`confidence` must be above 0"),
        ({"max_bank": -1}, "`max_bank` must be 0 or more, got -1"),
        ({"text_name": b"kettle"}, "`text_name` must be one of the bundle's, .*bottle.*`kettle`"),
        ({"text_name": b""}, "`text_name` must be one of the bundle's"),
        (
            {"names": [None]},
            r"`names\[0\]` must be a name in UTF-8 of at most 4096 bytes, got NULL",
        ),
        ({"names": [b"\xff"]}, r"`names\[0\]` must be a name in UTF-8"),
        ({"names": [b"x" * 4097]}, r"`names\[0\]` must be a name in UTF-8"),
        ({"n_further": 1}, "`further` must be given, got NULL for 1 images"),
        ({"n_defects": 9}, "`defects` must be given, got NULL for 9 images"),
        ({"struct_size": 0}, "`options.struct_size` must be sizeof"),
        ({"struct_size": 1 << 20}, "`options.struct_size` must be sizeof"),
    ],
)
def test_refuses_options(
    enroller: Enroller, good_parts: list[Picture], fields: dict[str, Any], sentence: str
) -> None:
    never = Progress(lambda *_: pytest.fail("an image was encoded"))
    with pytest.raises(enroller.session.Error, match=sentence) as caught:
        enroller.enroll(good_parts[:1], progress=never, **fields)
    assert caught.value.status == 1


@pytest.mark.parametrize(
    ("product", "sentence"),
    [
        (None, "`product` must be given, got NULL"),
        ("", "must be a name, got an empty one"),
        (" \t\n", "must be a name, got an empty one"),
        ("x" * 5000, "at most 4096 bytes"),
    ],
)
def test_refuses_products(
    enroller: Enroller, good_parts: list[Picture], product: str | None, sentence: str
) -> None:
    with pytest.raises(enroller.session.Error, match=sentence) as caught:
        enroller.enroll(good_parts[:1], product)
    assert caught.value.status == 1


@pytest.mark.parametrize("kind", ["images", "further", "defects"])
def test_refuses_images(
    enroller: Enroller, good_parts: list[Picture], kind: str, c_status: SimpleNamespace
) -> None:
    """Before anything is encoded, and saying which."""
    never = Progress(lambda *_: pytest.fail("an image was encoded"))
    pictures: dict[str, Any] = {"images": [good_parts[0]], "further": [], "defects": []}
    pictures[kind] = [good_parts[1], good_parts[2][:15]]
    references = pictures.pop("images")
    with pytest.raises(enroller.session.Error, match=rf"{kind}\[1\]: .*16 x 16") as caught:
        enroller.enroll(references, progress=never, **pictures)
    assert caught.value.status == c_status.IMAGE


def test_usage(
    c_library: ctypes.CDLL,
    enroller: Enroller,
    good_parts: list[Picture],
    c_error: Callable[[], str],
) -> None:
    images, one, zero = enroller.images(good_parts[:1]), ctypes.c_size_t(1), ctypes.c_size_t(0)
    session, profile = enroller.session.handle, ctypes.c_void_p(5)
    out = ctypes.byref(profile)
    enroll = c_library.cff_session_enroll
    for arguments, sentence in [
        ((None, b"x", images, one, None, out), "`session` must be given"),
        ((session, b"x", images, one, None, None), "`profile` must be given"),
        ((session, b"x", images, zero, None, out), "at least one good part, got none"),
        ((session, b"x", None, zero, None, out), "at least one good part, got none"),
        ((session, b"x", None, one, None, out), "`images` must be given, got NULL for 1"),
        ((session, b"\xc3", images, one, None, out), "must be a name in UTF-8"),
        ((session, b"x", images, ctypes.c_size_t(-1), None, out), "at most 65536 images"),
    ]:
        profile.value = 5
        assert enroll(*arguments) == 1
        assert sentence in c_error()
        assert arguments[-1] is None or not profile
    known = enroller.enroll(good_parts[:1])
    add, remove = c_library.cff_session_add_normals, c_library.cff_session_remove_reference
    assert add(None, known, images, one, None, out) == 1
    assert add(session, None, images, one, None, out) == 1
    assert add(session, known, images, one, None, None) == 1
    assert add(session, known, None, one, None, out) == 1
    assert remove(None, known, zero, None, out) == 1
    assert remove(session, None, zero, None, out) == 1
    assert remove(session, known, zero, None, None) == 1
