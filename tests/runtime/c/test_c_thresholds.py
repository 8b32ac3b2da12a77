"""The thresholds of libcff against the Python runtime's: numbers, words and cards."""

import ctypes
import datetime
import json
import locale
import math
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cff_runtime.errors import UsageError
from cff_runtime.thresholds import choose_threshold
from cff_runtime.thresholds.threshold import Threshold

AT = "2026-11-22T11:34:21+00:00"
N_RANDOM = 400
SEEDS = range(4)


class _Scores(ctypes.Structure):
    """`cff__scores`."""

    _fields_ = [("values", ctypes.POINTER(ctypes.c_double)), ("n", ctypes.c_size_t)]


class _Calibration(ctypes.Structure):
    """`cff__calibration`."""

    _fields_ = [
        ("scores", _Scores),
        ("peaks", _Scores),
        ("n_parts", ctypes.c_int64),
        ("margin", ctypes.c_double),
        ("further", _Scores),
        ("further_peaks", _Scores),
        ("defects", _Scores),
        ("further_hashes", ctypes.POINTER(ctypes.c_char_p)),
        ("defective_hashes", ctypes.POINTER(ctypes.c_char_p)),
        ("max_false_reject", ctypes.c_double),
        ("max_false_accept", ctypes.c_double),
        ("confidence", ctypes.c_double),
        ("at", ctypes.c_char_p),
        ("has_encoder_score", ctypes.c_bool),
    ]


class _Threshold(ctypes.Structure):
    """`cff__threshold`."""

    _fields_ = [
        ("value", ctypes.c_double),
        ("review", ctypes.c_double),
        ("pixel_value", ctypes.c_double),
        ("expected_false_rejects", ctypes.c_double),
        ("method", ctypes.c_char_p),
        ("statement", ctypes.c_char_p),
        ("card", ctypes.c_char_p),
        ("n_parts", ctypes.c_int64),
        ("scores", ctypes.POINTER(ctypes.c_double)),
        ("peaks", ctypes.POINTER(ctypes.c_double)),
        ("n_scores", ctypes.c_size_t),
        ("n_peaks", ctypes.c_size_t),
    ]


@dataclass(frozen=True)
class _Case:
    """Arguments of `choose_threshold`."""

    scores: Sequence[float]
    peaks: Sequence[float]
    n_parts: int
    margin: float = 0.2
    further: Sequence[float] = ()
    further_peaks: Sequence[float] = ()
    defects: Sequence[float] = ()
    max_false_reject: float | None = None
    max_false_accept: float | None = None
    confidence: float = 0.95
    hashes: dict[str, list[str]] = field(default_factory=lambda: {"further": [], "defective": []})
    at: str | None = AT
    has_encoder_score: bool = True


class _RefusedError(Exception):
    """libcff's status and sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def _scores(values: Sequence[float]) -> _Scores:
    return _Scores((ctypes.c_double * len(values))(*values), len(values))


def _texts(values: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))


def _in_c(library: ctypes.CDLL, case: _Case) -> Threshold:
    given = _Calibration(
        scores=_scores(case.scores),
        peaks=_scores(case.peaks),
        n_parts=case.n_parts,
        margin=case.margin,
        further=_scores(case.further),
        further_peaks=_scores(case.further_peaks),
        defects=_scores(case.defects),
        max_false_reject=case.max_false_reject or 0.0,
        max_false_accept=case.max_false_accept or 0.0,
        confidence=case.confidence,
        at=None if case.at is None else case.at.encode(),
        has_encoder_score=case.has_encoder_score,
    )
    if case.hashes["further"]:
        given.further_hashes = _texts(case.hashes["further"])
    if case.hashes["defective"]:
        given.defective_hashes = _texts(case.hashes["defective"])
    arena, found = ctypes.c_void_p(), _Threshold()
    status = library.cff__choose_threshold(
        ctypes.byref(given), ctypes.byref(arena), ctypes.byref(found)
    )
    try:
        if status:
            raise _RefusedError(status, library.cff_last_error().decode())
        return Threshold(
            value=found.value,
            pixel_value=found.pixel_value,
            method=found.method.decode(),
            n_parts=found.n_parts,
            scores=tuple(found.scores[: found.n_scores]),
            peaks=tuple(found.peaks[: found.n_peaks]),
            expected_false_rejects=found.expected_false_rejects,
            statement=found.statement.decode(),
            review=found.review,
            card=json.loads(found.card),
        )
    finally:
        library.cff__arena_free(ctypes.byref(arena))


def _in_python(case: _Case) -> Threshold:
    return choose_threshold(
        case.scores,
        case.peaks,
        case.n_parts,
        case.margin,
        further=case.further,
        further_peaks=case.further_peaks,
        defects=case.defects,
        max_false_reject=case.max_false_reject,
        max_false_accept=case.max_false_accept,
        confidence=case.confidence,
        hashes=case.hashes,
        at=case.at,
        has_encoder_score=case.has_encoder_score,
    )


def _ordered(value: Any) -> Any:
    """Mappings as lists of pairs: their order counts."""
    if isinstance(value, dict):
        return [(key, _ordered(one)) for key, one in value.items()]
    return value


def _require_same(library: ctypes.CDLL, case: _Case) -> Threshold:
    ours, expected = _in_c(library, case), _in_python(case)
    for name in ("value", "pixel_value", "review", "expected_false_rejects"):
        got, wanted = getattr(ours, name), getattr(expected, name)
        assert got == pytest.approx(wanted, rel=1e-12, abs=0.0), (name, case)
    assert ours.method == expected.method
    assert ours.statement == expected.statement
    assert (ours.n_parts, ours.scores, ours.peaks) == (
        expected.n_parts,
        expected.scores,
        expected.peaks,
    )
    ours_card, card = dict(ours.card), json.loads(json.dumps(expected.card))
    assert list(ours_card) == list(card)
    ours_risk, risk = ours_card.pop("risk"), card.pop("risk")
    assert list(ours_risk) == list(risk)
    for name, wanted in risk.items():
        if isinstance(wanted, float):
            wanted = pytest.approx(wanted, rel=1e-12, abs=0.0)
        assert ours_risk[name] == wanted, (name, case)
    assert _ordered(ours_card) == _ordered(card)
    return ours


def _random_case(rng: np.random.Generator) -> _Case:
    n_parts = int(rng.integers(1, 9))
    n = n_parts * int(rng.integers(2, 5)) if n_parts > 1 else int(rng.integers(1, 6))
    n_further = int(rng.choice([0, 0, 1, 2, 5, 20, 60, 150]))
    n_defects = int(rng.choice([0, 1, 3, 30, 90]))
    digits = int(rng.choice([1, 2, 15]))  # few digits: ties
    level = float(rng.choice([1.0, 1e-6, -3.0, 1e5]))

    def some(count: int, mean: float) -> list[float]:
        drawn = np.round(mean + rng.normal(size=count), digits) * level
        return [float(value) for value in drawn]

    scores = some(n, 1.0)
    further = some(n_further, float(rng.choice([1.0, 2.0])))
    has_text = bool(rng.integers(2))
    has_further_peaks = has_text or bool(rng.integers(2))
    wishes = [None, 1e-9, 0.001, 0.05, 0.2, 0.5, float(rng.uniform(0.001, 0.999))]
    return _Case(
        scores=scores,
        peaks=some(n, 0.5) if has_text else scores,
        n_parts=n_parts,
        margin=float(rng.choice([0.0, 0.2, float(rng.uniform(0.0, 2.0))])),
        further=further,
        further_peaks=(some(n_further, 0.5) if has_text else further) if has_further_peaks else [],
        defects=some(n_defects, float(rng.choice([0.5, 3.0, 6.0]))),
        max_false_reject=wishes[rng.integers(len(wishes))],
        max_false_accept=wishes[rng.integers(len(wishes))] if n_defects else None,
        confidence=float(rng.choice([0.95, 0.9, 0.999, 0.5, float(rng.uniform(0.001, 0.9999))])),
        hashes={
            "further": [f"{i:064x}" for i in range(n_further)],
            "defective": [f"{i + 7:064x}" for i in range(n_defects)],
        },
        has_encoder_score=bool(rng.integers(2)),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_random_cases_are_pythons(c_internals: ctypes.CDLL, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = set()
    for _ in range(N_RANDOM):
        chosen = _require_same(c_internals, _random_case(rng))
        seen.add((chosen.method, chosen.review < chosen.value, "; <= " in chosen.statement))
    # every kind of end came up: each method, with and without a band, wishes kept and not
    assert {method for method, _, _ in seen} == {
        "leave-one-image-out",
        "self-augmentation",
        "further-parts",
    }
    assert {(band, short) for _, band, short in seen} == {
        (band, short) for band in (False, True) for short in (False, True)
    }


OWN = [0.5, 0.7, 0.6, 0.55, 0.65, 0.71]
CASES = {
    "one part": _Case([0.5], [0.5], 1),
    "one part and a wish": _Case([0.5], [0.5], 1, max_false_reject=0.05),
    "below zero": _Case([-0.5, -0.25], [-0.5, -0.25], 1),
    "zero": _Case([0.0, -0.0], [-0.0, 0.0], 2),
    "all alike": _Case([0.5] * 6, [0.5] * 6, 2, further=[0.5] * 30, defects=[0.5] * 30),
    "alike, both wishes": _Case(
        [0.5] * 6,
        [0.5] * 6,
        2,
        further=[0.5] * 99,
        defects=[0.5] * 99,
        max_false_reject=0.05,
        max_false_accept=0.05,
    ),
    "as many as rank 1 needs": _Case(
        OWN, OWN, 2, further=[0.01 * i for i in range(59)], max_false_reject=0.05
    ),
    "one too few": _Case(OWN, OWN, 2, further=[0.01 * i for i in range(58)], max_false_reject=0.05),
    "fewer parts than references": _Case(OWN, OWN, 5, further=[0.1, 0.2]),
    "as many parts as references": _Case(OWN, OWN, 2, further=[0.1, 0.2]),
    "a tiny wish": _Case(
        OWN, OWN, 2, further=OWN, defects=OWN, max_false_reject=1e-300, max_false_accept=1e-12
    ),
    "a wish near 1": _Case(OWN, OWN, 2, further=OWN, max_false_reject=1 - 2**-53),
    "hardly any confidence": _Case(OWN, OWN, 2, further=OWN, confidence=1e-12),
    "a confidence near 1": _Case(OWN, OWN, 2, further=OWN, confidence=1 - 2**-53),
    "a long confidence": _Case(OWN, OWN, 2, further=OWN, confidence=0.9512345678),
    "a band": _Case(
        OWN, OWN, 2, further=[1.0, 1.2, 1.4], defects=[0.8, 1.1, 1.4, 1.5], max_false_accept=0.6
    ),
    "a band of references": _Case(OWN, OWN, 3, defects=[0.55, 0.6, 0.9], max_false_accept=0.9),
    "a band, one part": _Case([0.5], [0.5], 1, defects=[0.6], max_false_accept=0.97),
    "room for both": _Case(
        OWN,
        OWN,
        2,
        further=[0.1] * 99,
        defects=[3.0] * 99,
        max_false_reject=0.1,
        max_false_accept=0.1,
    ),
    "a text tower": _Case(OWN, [0.1, 0.2, 0.3, 0.2, 0.1, 0.4], 3),
    "a text tower and no map": _Case(OWN, [0.0] * 6, 3),
    "another statistic": _Case(OWN, [0.1, 0.2, 0.3, 0.2, 0.1, 0.4], 3, has_encoder_score=False),
    "another statistic, further parts": _Case(
        OWN,
        [0.1, 0.2, 0.3, 0.2, 0.1, 0.4],
        2,
        further=[0.2, 0.3, 0.1, 0.2],
        further_peaks=[1.2, 1.3, 1.1, 1.25],
        has_encoder_score=False,
    ),
    "a text tower, one part": _Case(OWN, [0.1, 0.2, 0.3, 0.2, 0.1, 0.4], 1),
    "a text tower, further parts": _Case(
        OWN,
        [0.1, 0.2, 0.3, 0.2, 0.1, 0.4],
        3,
        further=[0.2, 0.3, 0.1, 0.2],
        further_peaks=[0.5, 0.1, 0.3, 0.4],
        max_false_reject=0.9,
    ),
    "fewer maxima than the rank": _Case(
        OWN, [0.1] * 6, 3, further=OWN, further_peaks=[0.5], max_false_reject=0.9
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_edges_are_pythons(c_internals: ctypes.CDLL, case: _Case) -> None:
    _require_same(c_internals, case)


def test_a_card_without_date_is_dated_now(c_internals: ctypes.CDLL) -> None:
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    text = _in_c(c_internals, _Case(OWN, OWN, 2, at=None)).card["date"]
    date = datetime.datetime.fromisoformat(text)
    assert before <= date <= datetime.datetime.now(datetime.timezone.utc)
    assert date.isoformat(timespec="seconds") == text


def test_missing_hashes_are_empty_lists(c_internals: ctypes.CDLL) -> None:
    card = _in_c(c_internals, _Case(OWN, OWN, 2, further=[0.1], defects=[2.0])).card
    assert card["data"] == {"further": [], "defective": []}


@pytest.mark.parametrize("name", ["scores", "peaks", "further", "further_peaks", "defects"])
@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(
    c_internals: ctypes.CDLL, c_status: SimpleNamespace, name: str, value: float
) -> None:
    changed: dict[str, Any] = {name: [*OWN[:-1], value]}
    case = replace(_Case(OWN, OWN, 2, further=OWN, further_peaks=OWN, defects=OWN), **changed)
    with pytest.raises(_RefusedError) as refused:
        _in_c(c_internals, case)
    with pytest.raises(UsageError) as expected:
        _in_python(case)
    assert refused.value.status == c_status.BACKEND
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (_Case([], [], 1), "`scores` and `peaks` must hold as many good parts, at least one"),
        (_Case([0.5], [], 1), "got 1 and 0"),
        (_Case([0.5], [0.5], 0), "`n_parts` must be 1 to the 1 scores, got 0"),
        (_Case([0.5], [0.5], 2), "`n_parts` must be 1 to the 1 scores, got 2"),
        (_Case([0.5], [0.5], -(2**63)), "got -9223372036854775808"),
        (_Case([0.5], [0.5], 1, margin=100.0, further=[1.0]), ""),
        (_Case([1e307], [1e307], 1, margin=100.0), "thresholds must be finite"),
        (_Case([0.5], [0.5], 1, margin=101.0), "`margin` must be 0 to 100, got 101"),
        (_Case([0.5], [0.5], 1, max_false_accept=0.1), "`max_false_accept` must come with"),
    ],
)
def test_what_cannot_be_meant(
    c_internals: ctypes.CDLL, c_status: SimpleNamespace, case: _Case, sentence: str
) -> None:
    if not sentence:  # a margin that has no say here
        _require_same(c_internals, case)
        return
    with pytest.raises(_RefusedError) as refused:
        _in_c(c_internals, case)
    assert refused.value.status == c_status.USAGE
    assert sentence in str(refused.value)


@contextmanager
def _decimal_comma(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A locale that writes 1,5; made from the system's sources where it is not installed."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed, no locale with a decimal comma can be made")
    command = [
        "localedef",
        "--no-archive",
        "-i",
        "de_DE",
        "-f",
        "UTF-8",
        str(folder / "de_DE.UTF-8"),
    ]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    before = locale.setlocale(locale.LC_NUMERIC)
    monkeypatch.setenv("LOCPATH", str(folder))
    try:
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
    except locale.Error:
        pytest.skip(f"no locale with a decimal comma: {made.stderr}")
    try:
        yield
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


def test_a_decimal_comma_changes_nothing(
    c_internals: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _decimal_comma(tmp_path, monkeypatch):
        assert locale.localeconv()["decimal_point"] == ","
        for case in (CASES["a long confidence"], CASES["a band"], CASES["a tiny wish"]):
            _require_same(c_internals, case)
