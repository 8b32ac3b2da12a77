"""What an encoder takes besides the image and gives besides features, as the manifest says it.

    (image [B,H,W,3] uint8, condition [R,C] float32) -> (features_s, map [B,H,W], score [B] or none)

The condition is a matrix that the profile holds. It comes from a class word (CFF's text vectors),
or it is the features of one reference, which the same graph gave (a template). Nothing else tells
two detectors apart, so that nothing in the runtime asks which one it has.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cff_runtime.errors import BundleError
from cff_runtime.jsonfields import take

SOURCES = ("words", "reference")
CHOICES = ("medoid", "first")
STATISTICS = ("max", "std")
MAX_ROWS = 1 << 16
MAX_COLUMNS = 1 << 14
_TENSOR_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
_FEATURES = "features_"
_IMAGE = "image"

T = TypeVar("T")


@dataclass(frozen=True)
class Condition:
    """The encoder's second input and where its values come from.

    Attributes
    ----------
    input : str
        Name of the graph's input.
    shape : tuple of int
        Rows and columns.
    source : {'words', 'reference'}
        The tensor of a class word in `file`, or the features of stage `stage` of a reference.
    file : str or None
        safetensors file with one tensor of `shape` per class word; "words" only.
    names : tuple of str
        The class words in `file`.
    stage : int or None
        Whose features the condition is; "reference" only.
    choice : {'medoid', 'first'} or None
        Which reference that is, see `cff_runtime.templates`; "reference" only.
    """

    input: str
    shape: tuple[int, int]
    source: str
    file: str | None
    names: tuple[str, ...]
    stage: int | None
    choice: str | None

    def core(self) -> dict[str, Any]:
        """Return what decides a score; it is a part of the bundle's id."""
        return {
            "input": self.input,
            "shape": list(self.shape),
            "source": self.source,
            "stage": self.stage,
            "choice": self.choice,
        }


@dataclass(frozen=True)
class MapOutput:
    """The encoder's map, and its weight in the anomaly map."""

    output: str
    weight: float


@dataclass(frozen=True)
class ScoreOutput:
    """What an image score is made of.

    Attributes
    ----------
    output : str or None
        Name of the graph's score; None where it gives none.
    statistic : {'max', 'std'}
        Of the anomaly map, see `cff_runtime.finishing`.
    """

    output: str | None
    statistic: str


def parse_condition(entry: Mapping[str, Any]) -> Condition:
    """Read the manifest's `condition`.

    Raises
    ------
    BundleError
        If a field is missing, of a wrong type, out of range or of the other source.
    """
    shape = take(entry, "shape", list, BundleError)
    sides_ok = len(shape) == 2 and all(type(side) is int for side in shape)
    if not sides_ok or not (0 < shape[0] <= MAX_ROWS and 0 < shape[1] <= MAX_COLUMNS):
        raise BundleError(
            f"`condition.shape` must be 1 to {MAX_ROWS} rows and 1 to {MAX_COLUMNS} columns, "
            f"got {shape!r:.80}"
        )
    names = take(entry, "names", list, BundleError)
    if not all(isinstance(name, str) for name in names):
        raise BundleError(f"`condition.names` must be a list of strings, got {names!r:.80}")
    condition = Condition(
        input=_tensor_name(take(entry, "input", str, BundleError), "condition.input"),
        shape=(shape[0], shape[1]),
        source=_one_of(entry, "source", "condition.source", SOURCES),
        file=_or_none(entry, "file", str),
        names=tuple(names),
        stage=_or_none(entry, "stage", int),
        choice=_or_none(entry, "choice", str),
    )
    _check_source(condition)
    return condition


def parse_map(entry: Mapping[str, Any]) -> MapOutput:
    """Read the manifest's `map`; raises as `parse_condition`."""
    output = _tensor_name(take(entry, "output", str, BundleError), "map.output")
    return MapOutput(output, take(entry, "weight", float, BundleError))


def parse_score(entry: Mapping[str, Any]) -> ScoreOutput:
    """Read the manifest's `score`; raises as `parse_condition`."""
    output = _or_none(entry, "output", str)
    if output is not None:
        _tensor_name(output, "score.output")
    statistic = _one_of(entry, "statistic", "score.statistic", STATISTICS)
    if output is not None and statistic != "max":
        raise BundleError(
            f"`score.statistic` must be max where the encoder gives a score, got {statistic}; "
            "export the bundle again"
        )
    return ScoreOutput(output, statistic)


def check_signature(
    condition: Condition,
    map_output: MapOutput,
    score: ScoreOutput,
    stages: Sequence[tuple[int, int]],
) -> None:
    """Check the parts against each other and against the stages' features.

    Parameters
    ----------
    condition : Condition
    map_output : MapOutput
    score : ScoreOutput
    stages : sequence of S tuples of int
        N_s and C_s.

    Raises
    ------
    BundleError
        If two tensors have one name, or a reference's features do not have the condition's shape.
    """
    names = [condition.input, map_output.output]
    names += [] if score.output is None else [score.output]
    if len(set(names)) != len(names):
        raise BundleError(f"the encoder's tensors must have different names, got {names!r:.80}")
    if condition.source != "reference":
        return
    stage = -1 if condition.stage is None else condition.stage
    if not 0 <= stage < len(stages):
        raise BundleError(
            f"`condition.stage` must be 0 to {len(stages) - 1}, got {condition.stage}"
        )
    if condition.shape != stages[stage]:
        raise BundleError(
            f"`condition.shape` must be that of the features of stage {stage}, "
            f"{list(stages[stage])}, got {list(condition.shape)}"
        )


def _check_source(condition: Condition) -> None:
    of_words = condition.source == "words"
    if of_words and (condition.file is None or not condition.names):
        raise BundleError(
            "`condition` of source words must have `file` and the class words in it, `names`"
        )
    if of_words and not (condition.stage is None and condition.choice is None):
        raise BundleError("`condition` of source words must have no `stage` and no `choice`")
    if not of_words and (condition.file is not None or condition.names):
        raise BundleError("`condition` of source reference must have no `file` and no `names`")
    if not of_words and condition.choice not in CHOICES:
        raise BundleError(
            f"`condition.choice` must be one of {', '.join(CHOICES)}, got {condition.choice!r:.80}"
        )


def _tensor_name(name: str, field: str) -> str:
    if not _TENSOR_NAME.fullmatch(name) or name == _IMAGE or name.startswith(_FEATURES):
        raise BundleError(
            f"`{field}` must be at most 64 of a-z, 0-9 and _, a letter first, and neither "
            f"`{_IMAGE}` nor `{_FEATURES}...`, got {name!r:.80}"
        )
    return name


def _one_of(entry: Mapping[str, Any], key: str, field: str, known: Sequence[str]) -> str:
    value = take(entry, key, str, BundleError)
    if value not in known:
        raise BundleError(f"`{field}` must be one of {', '.join(known)}, got {value!r:.80}")
    return value


def _or_none(entry: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    return None if entry.get(name, "") is None else take(entry, name, kind, BundleError)
