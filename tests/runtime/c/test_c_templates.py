"""libcff with a bundle whose condition is a template of a reference, and that searches nothing.

The bundle is the conformance set's; what must come out follows from its graph in ONNX Runtime, by
hand, and from the Python runtime.
"""

import ctypes
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Inspector, Profile
from cff_runtime.bundle import Bundle
from cff_runtime.errors import ProfileMismatchError, UsageError
from cff_runtime.thresholds import augmentations, without_border

Floats = NDArray[np.float32]
SIZE, HANDLE = ctypes.c_size_t, ctypes.c_void_p
SET = Path(__file__).parents[2] / "conformance"
Progress = ctypes.CFUNCTYPE(ctypes.c_int, HANDLE, ctypes.c_int32, ctypes.c_int32)


class EnrollOptions(ctypes.Structure):
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
        ("names", HANDLE),
        ("further", HANDLE),
        ("n_further", SIZE),
        ("defects", HANDLE),
        ("n_defects", SIZE),
        ("progress", HANDLE),
        ("user", HANDLE),
    )


class Matrix(ctypes.Structure):
    """`cff__matrix`."""

    _fields_ = (
        ("values", ctypes.POINTER(ctypes.c_float)),
        ("n_rows", ctypes.c_int64),
        ("n_columns", ctypes.c_int64),
    )


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    """Four good parts, then a defective one."""
    names = [f"reference_{index}" for index in range(4)] + ["defect_4"]
    return [np.asarray(Image.open(SET / "images" / f"{name}.png")) for name in names]


@pytest.fixture(scope="module", params=["medoid", "first"])
def bundle(
    request: pytest.FixtureRequest,
    edit_manifest: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """The bundle with either choice of the template."""
    folder = tmp_path_factory.mktemp("template") / "bundle"
    shutil.copytree(SET / "bundles" / "template", folder)

    def edit(fields: dict[str, Any]) -> None:
        fields["condition"]["choice"] = request.param

    edit_manifest(folder, edit, rehash=True)
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def session(c_library: ctypes.CDLL, c_session_class: Any, bundle: Bundle) -> Iterator[Any]:
    opened = c_session_class(c_library, bundle.path, n_threads=1)
    yield opened
    opened.close()


def _images(session: Any, pictures: list[NDArray[np.uint8]]) -> Any:
    return (session.Image * len(pictures))(
        *[
            session.Image(one.ctypes.data, one.shape[1], one.shape[0], one.strides[0], 0)
            for one in pictures
        ]
    )


def _options(session: Any, **fields: Any) -> EnrollOptions:
    options = EnrollOptions()
    size = ctypes.c_uint32(ctypes.sizeof(options))
    session.check(session.library.cff_enroll_options_init(ctypes.byref(options), size))
    for name, value in fields.items():
        setattr(options, name, value)
    return options


def _made(session: Any, function: str, *arguments: Any) -> ctypes.c_void_p:
    profile = HANDLE()
    session.check(
        getattr(session.library, function)(session.handle, *arguments, ctypes.byref(profile))
    )
    session._profiles.append(profile)
    return profile


def _enroll(session: Any, pictures: list[NDArray[np.uint8]], **fields: Any) -> ctypes.c_void_p:
    options = _options(session, **fields)
    images = _images(session, pictures)
    count = SIZE(len(pictures))
    return _made(session, "cff_session_enroll", b"plate", images, count, ctypes.byref(options))


def _save(session: Any, profile: ctypes.c_void_p, path: Path) -> Profile:
    session.check(session.library.cff_profile_save(profile, str(path).encode()))
    return Profile.load(path)


class ByHand:
    """The encoder in ONNX Runtime, and the templates from its features."""

    def __init__(self, bundle: Bundle, pictures: list[NDArray[np.uint8]]) -> None:
        self._bundle, manifest = bundle, bundle.manifest
        self._graph = ort.InferenceSession(
            bundle.path / manifest.encoder, providers=["CPUExecutionProvider"]
        )
        self.images = [manifest.preprocessing(picture) for picture in pictures]
        zeros = np.zeros(manifest.condition.shape, np.float32)
        self.templates = [self._run(image, zeros)["features_1"][0] for image in self.images]
        means = [t.astype(np.float64).mean(axis=0) for t in self.templates]
        self._means = np.stack([mean / np.linalg.norm(mean) for mean in means])

    def choose(self, among: list[int]) -> int:
        if self._bundle.manifest.condition.choice == "first" or len(among) < 3:
            return among[0]
        rows = self._means[among]
        return among[int((rows @ rows.T).sum(axis=1).argmax())]

    def map_of(self, image: NDArray[np.uint8], template: int) -> Floats:
        weight = self._bundle.manifest.map.weight
        found = self._run(image, self.templates[template])["difference_map"][0]
        return np.asarray(np.float32(weight) * found)

    def _run(self, image: NDArray[np.uint8], condition: Floats) -> dict[str, Floats]:
        names = [output.name for output in self._graph.get_outputs()]
        feeds = {"image": image[None], "template": condition}
        return dict(zip(names, self._graph.run(names, feeds), strict=True))


@pytest.mark.parametrize("n_references", [1, 2, 3, 4])
def test_templates_are_chosen_among_the_others(
    session: Any,
    bundle: Bundle,
    pictures: list[NDArray[np.uint8]],
    n_references: int,
    tmp_path: Path,
) -> None:
    """Scores are standard deviations, and no reference is judged with itself as template."""
    hand = ByHand(bundle, pictures[:n_references])
    everything = list(range(n_references))
    own, augmented = [], []
    for index, image in enumerate(hand.images):
        template = hand.choose([i for i in everything if i != index] or [index])
        if n_references > 1:
            own.append(hand.map_of(image, template))
        moved = [hand.map_of(one, template) for one in augmentations(image)]
        augmented += [without_border(one) for one in moved]
    maps = [one.astype(np.float64) for one in own + augmented]

    saved = _save(session, _enroll(session, pictures[:n_references]), tmp_path / "profile")

    template = hand.choose(everything)
    assert saved.condition_name == f"image {template + 1}"
    np.testing.assert_allclose(saved.condition, hand.templates[template], rtol=0, atol=1e-6)
    assert saved.banks == () and len(saved.means) == 2
    assert saved.threshold.scores == pytest.approx([one.std() for one in maps], abs=1e-6)
    assert saved.threshold.peaks == pytest.approx([one.max() for one in maps], abs=1e-6)
    promised = 1.0 / (n_references + 1) if n_references > 1 else 1.0
    assert saved.threshold.expected_false_rejects == promised
    saved.require_bundle(bundle.manifest)


@pytest.mark.parametrize("n_references", [1, 2, 4])
def test_profiles_and_results_are_python_s(
    session: Any,
    bundle: Bundle,
    pictures: list[NDArray[np.uint8]],
    n_references: int,
    tmp_path: Path,
) -> None:
    inspector = Inspector.open(bundle.path, options={"threads": 1})
    expected = inspector.enroll(pictures[:n_references], "plate")
    profile = _enroll(session, pictures[:n_references])
    saved = _save(session, profile, tmp_path / "profile")
    assert (saved.bundle_id, saved.origin) == (expected.bundle_id, expected.origin)
    assert saved.condition_name == expected.condition_name
    np.testing.assert_allclose(saved.condition, expected.condition, rtol=0, atol=1e-6)
    ours, theirs = saved.threshold, expected.threshold
    for name in ("value", "review", "pixel_value", "scores", "peaks"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-6), name
    assert (ours.statement, ours.method) == (theirs.statement, theirs.method)
    assert ours.card["assumptions"] == theirs.card["assumptions"]
    assert (ours.card["score"], theirs.card["score"]) == ("map", "map")

    ours_read = session.load(tmp_path / "profile")
    for picture in pictures:
        found, wanted = session.inspect(ours_read, picture), inspector.inspect(picture, saved)
        np.testing.assert_allclose(found.anomaly_map, wanted.anomaly_map, rtol=0, atol=1e-6)
        assert found.info.score == pytest.approx(wanted.score, abs=1e-6)
        assert found.info.score == pytest.approx(found.anomaly_map.std(dtype=np.float64), abs=1e-9)
        assert found.json["verdict"] == wanted.to_dict()["verdict"]
        assert np.isnan(found.info.text_score) and found.info.search_ms == 0.0


def test_templates_are_chosen_anew(
    session: Any, bundle: Bundle, pictures: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    """Adding and removing give what enrolling the same parts at once gives."""
    three, four = _enroll(session, pictures[:3]), _enroll(session, pictures[:4])
    options = ctypes.byref(_options(session))
    more = _made(
        session, "cff_session_add_normals", three, _images(session, pictures[3:4]), SIZE(1), options
    )
    fewer = _made(session, "cff_session_remove_reference", four, SIZE(3), options)
    for made, wanted in ((more, four), (fewer, three)):
        got = _save(session, made, tmp_path / "made")
        want = _save(session, wanted, tmp_path / "wanted")
        assert np.array_equal(got.condition, want.condition)
        assert got.threshold.scores == want.threshold.scores
        assert np.array_equal(got.means[1], want.means[1])
    without_first = _made(session, "cff_session_remove_reference", four, SIZE(0), options)
    hand = ByHand(bundle, pictures[:4])
    got = _save(session, without_first, tmp_path / "made")
    wanted_template = hand.templates[hand.choose([1, 2, 3])]
    np.testing.assert_allclose(got.condition, wanted_template, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n_references", "n_images"), [(1, 6), (3, 19)])
def test_progress_counts_references_that_are_encoded_again(
    session: Any, pictures: list[NDArray[np.uint8]], n_references: int, n_images: int
) -> None:
    """K with zeros, K with the others' template if K > 1, 4 K augmentations, one defective part."""
    told: list[tuple[int, int]] = []
    tell = Progress(lambda _, n_done, n_all: told.append((n_done, n_all)) or 0)
    defects = _images(session, pictures[4:])
    _enroll(
        session,
        pictures[:n_references],
        progress=ctypes.cast(tell, HANDLE),
        defects=ctypes.cast(defects, HANDLE),
        n_defects=1,
    )
    assert told == [(done, n_images) for done in range(1, n_images + 1)]


def test_what_this_bundle_cannot_take_is_refused(
    session: Any,
    bundle: Bundle,
    pictures: list[NDArray[np.uint8]],
    c_status: SimpleNamespace,
) -> None:
    inspector = Inspector.open(bundle.path, options={"threads": 1})
    for fields, sentence in (
        ({"text_name": b"object"}, "`text_name` must be NULL with this bundle"),
        ({"text_name": b""}, "`text_name` must be NULL with this bundle"),
        ({"max_bank": 9}, "`max_bank` must be 0 with this bundle"),
    ):
        with pytest.raises(session.Error, match=sentence) as failure:
            _enroll(session, pictures[:2], **fields)
        assert failure.value.status == c_status.USAGE
        assert "\n" not in str(failure.value)
    with pytest.raises(UsageError):
        inspector.enroll(pictures[:2], "plate", text_name="object")
    with pytest.raises(UsageError):
        inspector.enroll(pictures[:2], "plate", max_bank=9)


def test_a_profile_of_another_choice_does_not_fit(
    session: Any,
    bundle: Bundle,
    pictures: list[NDArray[np.uint8]],
    edit_manifest: Callable[..., None],
    c_session_class: Any,
    c_status: SimpleNamespace,
    tmp_path: Path,
) -> None:
    """The same graph with another way to choose or to score is another bundle."""
    saved = _save(session, _enroll(session, pictures[:2]), tmp_path / "profile")
    for name, edit, said in (
        (
            "choice",
            lambda fields: _flip(fields["condition"], "choice", "medoid", "first"),
            "another scorer",
        ),
        ("score", lambda fields: fields["score"].update(statistic="max"), "another image score"),
    ):
        shutil.copytree(bundle.path, tmp_path / name)
        edit_manifest(tmp_path / name, edit, rehash=True)
        with pytest.raises(ProfileMismatchError):
            saved.require_bundle(Bundle.open(tmp_path / name).manifest)
        other = c_session_class(session.library, tmp_path / name, n_threads=1)
        profile = other.load(tmp_path / "profile")
        with pytest.raises(session.Error, match=said) as failure:
            other.inspect(profile, pictures[0])
        other.close()
        assert failure.value.status == c_status.MISMATCH


def _flip(fields: dict[str, Any], name: str, one: str, other: str) -> None:
    fields[name] = other if fields[name] == one else one


@pytest.mark.parametrize(
    ("rows", "left_out", "chosen"),
    [
        ([[1, 0], [0.6, 0.8], [0, 1]], 3, 1),
        ([[1, 0], [0, 1]], 2, 0),  # of two alone the first
        ([[1, 0], [0.6, 0.8], [0, 1]], 0, 1),
        ([[1, 0], [0.6, 0.8], [0, 1]], 1, 0),
        ([[0, 1], [1, 0], [0, 1], [0.6, 0.8]], 4, 3),
        ([[1, 0], [0.8, 0.6], [0.8, 0.6], [0, 1]], 4, 1),  # of copies the first
        ([[1, 0]], 1, 0),
        ([[np.nan, 0], [1, 0], [0, 1]], 3, 0),
    ],
)
def test_medoid(
    c_internals: ctypes.CDLL, rows: list[list[float]], left_out: int, chosen: int
) -> None:
    values = np.array(rows, np.float32)
    pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    matrix = Matrix(pointer, *values.shape)
    room = (ctypes.c_double * sum(values.shape))()
    medoid = c_internals.cff__medoid
    medoid.restype = SIZE
    assert medoid(ctypes.byref(matrix), SIZE(left_out), room) == chosen


@pytest.mark.parametrize(("level", "spread"), [(0.0, 1.0), (1e4, 0.25), (-3.0, 0.0)])
def test_spread_is_numpy_s(c_internals: ctypes.CDLL, level: float, spread: float) -> None:
    drawn = np.random.default_rng(5).normal(level, spread, (64, 48)).astype(np.float32)
    function = c_internals.cff__spread
    function.restype = ctypes.c_double
    found = function(HANDLE(drawn.ctypes.data), SIZE(drawn.size))
    wide = drawn.astype(np.longdouble)
    expected = np.sqrt(np.mean((wide - wide.mean()) ** 2))
    assert found == pytest.approx(float(expected), rel=1e-12, abs=1e-12)
    drawn[3, 5] = np.nan
    assert np.isnan(function(HANDLE(drawn.ctypes.data), SIZE(drawn.size)))


def test_profile_facts_name_the_reference(
    session: Any, pictures: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    names = (ctypes.c_char_p * 2)(b"a.png", b"b.png")
    profile = _enroll(session, pictures[:2], names=ctypes.cast(names, HANDLE))
    saved = _save(session, profile, tmp_path / "profile")
    assert saved.condition_name == "a.png"
    needed, get = SIZE(), session.library.cff_profile_get_text
    session.check(get(profile, 6, None, SIZE(0), ctypes.byref(needed)))
    buffer = ctypes.create_string_buffer(needed.value)
    session.check(get(profile, 6, buffer, needed, None))
    facts = json.loads(buffer.value)
    assert facts["origin"]["score_statistic"] == "std" and facts["origin"]["map_weight"] == 0.75
    session.check(get(profile, 3, buffer, needed, None))
    assert buffer.value == b"a.png"
