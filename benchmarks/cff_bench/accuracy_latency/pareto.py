"""Which rows nothing else beats in both time and accuracy."""

import math
from collections.abc import Sequence


def pareto_front(costs: Sequence[float | None], worths: Sequence[float | None]) -> list[int]:
    """Return the rows that no other beats, in order of cost.

    A row beats another if it costs no more and is worth no less, and one of the two is better.
    Rows that are equal in both do not beat each other.

    Parameters
    ----------
    costs, worths : sequence of n floats or None
        Lower and higher is better; a row without either is not on the front.

    Returns
    -------
    list of int
        Indices.
    """
    points = [
        (cost, -worth, index)
        for index, (cost, worth) in enumerate(zip(costs, worths, strict=True))
        if cost is not None and worth is not None and math.isfinite(cost + worth)
    ]
    front: list[int] = []
    best: tuple[float, float] | None = None
    for cost, negative_worth, index in sorted(points):
        # sorted by cost, then by worth from high to low: only a larger worth can join
        if best is None or negative_worth < best[1] or (cost, negative_worth) == best:
            front.append(index)
            best = (cost, negative_worth)
    return front
