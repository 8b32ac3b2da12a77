"""What a learning curve says, in sentences: of the next part, or that the parts cannot tell."""

from cff_runtime.curve.intervals import Estimate
from cff_runtime.curve.points import QUANTITIES, Curve, Point, Quantity

FEWEST_PARTS = 8  # below, an interval from resampled parts is no evidence
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("tenth", "eleventh", "twelfth"),
)


def ordinal(number: int) -> str:
    """Return the ordinal of a positive number, in words up to twelve."""
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    tens, ones = number % 100, number % 10
    suffix = "th" if tens in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(ones, "th")
    return f"{number}{suffix}"


def article(word: str) -> str:
    """Return the word with its indefinite article: an eighth, an 11th, an 18th, a fifth."""
    is_vowel = word[0] in "aeiou" or word.startswith(("8", "11th", "18th"))
    return f"{'an' if is_vowel else 'a'} {word}"


def statement(curve: Curve) -> str:
    """Return what one more reference would bring at the largest K that can tell."""
    measured = [point for point in curve.points if point.gains]
    if not measured:
        k = curve.points[-1].k + 1
        return (
            f"{curve.n_good} good parts cannot tell what {article(ordinal(k))} reference would "
            f"bring: it takes at least {k + 1}"
        )
    return point_statement(curve, measured[-1])


def point_statement(curve: Curve, point: Point) -> str:
    """Return what one more reference brings at one K, quantity by quantity."""
    which = article(ordinal(point.k + 1))
    if curve.n_good < FEWEST_PARTS:
        rate = point.estimates["false_rejects"]
        return (
            f"{curve.n_good} good parts cannot tell what {which} reference would bring: of those "
            f"held out, {_percent(rate.mean)} were rejected with {point.k}, which may mean "
            f"{_percent(rate.low)} to {_percent(rate.high)} of all"
        )
    told = [_told(q, curve, point) for q in QUANTITIES if q.name in point.gains]
    return f"{which} reference " + "; it ".join(told)


def _told(quantity: Quantity, curve: Curve, point: Point) -> str:
    before, after = point.estimates[quantity.name], point.next[quantity.name]
    gain = point.gains[quantity.name]
    n_parts = curve.n_defective if quantity.needs_defects else curve.n_good
    kind = "defective" if quantity.needs_defects else "good"
    change = f"from {_percent(before.mean)} to {_percent(after.mean)}"
    points = f"{_points(gain.low)} to {_points(gain.high)} points"
    if quantity.name == "false_rejects" and before.mean == after.mean == 0.0:
        return (
            f"has no false rejects to lower: none with {point.k}, which from {n_parts} good parts "
            f"says at most {_percent(before.high)}"
        )
    if n_parts < FEWEST_PARTS or gain.low <= 0.0 <= gain.high:
        return (
            f"may or may not change {quantity.label} ({change}, by {points}): {n_parts} {kind} "
            "parts cannot tell"
        )
    way = "lower" if gain.mean < 0.0 else "raise"
    return f"would {way} {quantity.label} {change} (by {points})"


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f}%"


def _points(share: float) -> str:
    return f"{100.0 * share:+.0f}"


def interval(value: Estimate) -> str:
    """Return a mean with its interval, in per cent."""
    return f"{_percent(value.mean)} ({100.0 * value.low:.0f} to {_percent(value.high)})"


def points_interval(gain: Estimate) -> str:
    """Return a gain with its interval, in points of per cent."""
    return f"{_points(gain.mean)} points ({_points(gain.low)} to {_points(gain.high)})"
