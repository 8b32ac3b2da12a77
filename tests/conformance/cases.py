"""The conformance set for any implementation: write one function, call `check`.

    def inspect(case: Case) -> Answer:
        ...  # open case.bundle, load case.profile, inspect case.image

    check(inspect)

An `Answer` may leave out what an implementation does not show.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent
TOLERANCE = 1e-5
AnyArray = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Case:
    """An image to inspect.

    Attributes
    ----------
    name : str
        ``PROFILE/IMAGE``.
    bundle, profile : Path
    image : ndarray of shape (h, w, 3), uint8
        RGB, as it is given.
    tensors : mapping of str to ndarray
        Expected: ``resized``, ``features_s``, ``encoder_map``, ``nearest_s``, ``distance_s``,
        ``map``; without scorers no ``nearest_s`` and ``distance_s``.
    facts : mapping
        Expected: ``score``, ``text_score``, ``verdict``, ``regions``, ``product_distance``,
        ``warning``.
    map_range : float
        Of the profile's colour scale: maps and log distances have no scale of their own.
    """

    name: str
    bundle: Path
    profile: Path
    image: NDArray[np.uint8]
    tensors: Mapping[str, AnyArray]
    facts: Mapping[str, Any]
    map_range: float

    def tolerance(self, name: str) -> float:
        """Return the largest difference of a tensor or of the numbers of a fact."""
        if name == "resized":
            return 0.0
        if name.startswith(("map", "distance_", "regions")):
            return TOLERANCE * max(1.0, self.map_range)
        if name == "product_distance":
            return 10 * TOLERANCE  # a sum of logarithms of distances over 0.01
        return TOLERANCE


@dataclass(frozen=True, eq=False)
class Answer:
    """What an implementation says of a case; names as in `Case`."""

    tensors: Mapping[str, AnyArray] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EnrolmentCase:
    """A profile to make, and the one that must come out.

    Attributes
    ----------
    name : str
    bundle, profile : Path
    how : mapping
        ``product``, ``text_name`` (null where the condition is of a reference), ``wishes`` as
        `Inspector.enroll` names them.
    references, further, defects : list of Path
        Images.
    """

    name: str
    bundle: Path
    profile: Path
    how: Mapping[str, Any]
    references: list[Path]
    further: list[Path]
    defects: list[Path]


def read_index() -> dict[str, Any]:
    """Return ``cases.json``."""
    index: dict[str, Any] = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
    return index


def cases() -> Iterator[Case]:
    """Yield every image with every profile that it is inspected with."""
    index = read_index()
    for profile, entry in index["profiles"].items():
        bundle = index["bundles"][entry["bundle"]]
        encoded, judged = (
            load_file(FOLDER / bundle["tensors"]),
            load_file(FOLDER / entry["tensors"]),
        )
        answers = json.loads((FOLDER / entry["answers"]).read_text(encoding="utf-8"))
        low, high = profile_facts(FOLDER / entry["path"])["display_range"]
        for image in entry["images"]:
            yield Case(
                name=f"{profile}/{image}",
                bundle=FOLDER / bundle["path"],
                profile=FOLDER / entry["path"],
                image=np.asarray(Image.open(FOLDER / index["images"][image])),
                tensors={**_of_image(encoded, image), **_of_image(judged, image)},
                facts=answers[image],
                map_range=high - low,
            )


def enrolments() -> Iterator[EnrolmentCase]:
    """Yield every profile that can be made again."""
    index = read_index()
    for name, entry in index["profiles"].items():
        how = entry["enrolment"]
        references, further, defects = (
            [FOLDER / index["images"][image] for image in how[kind]]
            for kind in ("references", "further", "defects")
        )
        bundle = FOLDER / index["bundles"][entry["bundle"]]["path"]
        path = FOLDER / entry["path"]
        yield EnrolmentCase(name, bundle, path, how, references, further, defects)


def check(inspect: Callable[[Case], Answer], of: Sequence[Case] | None = None) -> None:
    """Run an implementation over some cases, all if not given.

    Raises
    ------
    AssertionError
        With every difference beyond the tolerances.
    """
    found = [
        f"{case.name}: {difference}"
        for case in (list(cases()) if of is None else of)
        for difference in differences(case, inspect(case))
    ]
    assert not found, "\n".join(found)


def differences(case: Case, answer: Answer) -> Iterator[str]:
    """Say what of an answer is wrong."""
    for name, got in answer.tensors.items():
        want = case.tensors[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            yield f"`{name}` is {got.dtype} {got.shape}, must be {want.dtype} {want.shape}"
            continue
        allowed = case.tolerance(name)
        off = float(np.abs(got.astype(np.float64) - want).max())
        if not off <= allowed:
            yield f"`{name}` differs by {off:.2e}, at most {allowed:.2e} may be"
    for name, got in answer.facts.items():
        if not agree(got, case.facts[name], case.tolerance(name)):
            yield f"`{name}` is {got!r}, must be {case.facts[name]!r}"


def agree(got: Any, want: Any, allowed: float) -> bool:
    """Whether facts agree: numbers that may be rounded within a tolerance, all else exactly."""
    if isinstance(want, float) and isinstance(got, float):
        return abs(got - want) <= allowed
    if isinstance(want, dict):
        return want.keys() == got.keys() and all(agree(got[k], want[k], allowed) for k in want)
    if isinstance(want, list | tuple):
        pairs = zip(got, want, strict=False)
        return len(got) == len(want) and all(agree(a, b, allowed) for a, b in pairs)
    return bool(got == want)


def enrolment_differences(case: EnrolmentCase, made: Path) -> Iterator[str]:
    """Say where a profile's file differs from the one that must come out."""
    got, want = load_file(made), load_file(case.profile)
    if got.keys() != want.keys():
        yield f"tensors are {sorted(got)}, must be {sorted(want)}"
        return
    of_word = case.how["text_name"] is not None
    for name, array in want.items():
        exact = array.dtype == np.uint8 or (of_word and name == "condition")
        if got[name].shape != array.shape or not np.allclose(
            got[name], array, rtol=0, atol=0 if exact else TOLERANCE
        ):
            yield f"`{name}` differs"
    facts, expected = profile_facts(made), profile_facts(case.profile)
    low, high = expected["display_range"]
    scale = max(1.0, high - low) * TOLERANCE
    for name in ENROLLED:
        if not agree(facts[name], expected[name], scale):
            yield f"`{name}` is {facts[name]!r}, must be {expected[name]!r}"
    for name in ENROLLED_THRESHOLD:
        if not agree(facts["threshold"][name], expected["threshold"][name], scale):
            was, must = facts["threshold"][name], expected["threshold"][name]
            yield f"`threshold.{name}` is {was!r}, must be {must!r}"
    for one, other in zip(facts["references"], expected["references"], strict=True):
        if {**one, "added": None} != {**other, "added": None}:
            yield f"reference {one!r}, must be {other!r}"


# what enrolling decides; dates, words and history are each implementation's own business
ENROLLED = (
    "schema_version",
    "product",
    "bundle_id",
    "origin",
    "display_range",
    "peak_scale",
    "condition_name",
    "product_limit",
    "compression",
)
ENROLLED_THRESHOLD = (
    "value",
    "review",
    "pixel_value",
    "expected_false_rejects",
    "method",
    "n_parts",
    "scores",
    "peaks",
)


def profile_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a profile, read from the head of the file."""
    with path.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    facts: dict[str, Any] = json.loads(head["__metadata__"]["cff_profile"])
    return facts


def _of_image(tensors: Mapping[str, AnyArray], image: str) -> dict[str, AnyArray]:
    start = f"{image}."
    return {name[len(start) :]: array for name, array in tensors.items() if name.startswith(start)}
