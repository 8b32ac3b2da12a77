"""How many samples each start of a process gave, and which of too many samples are kept."""

from collections.abc import Sequence
from itertools import accumulate

from cff_runtime.errors import UsageError


def require_starts(name: str, starts: Sequence[int], n_values: int) -> list[int]:
    """Return the numbers of samples per start.

    Raises
    ------
    UsageError
        If they are no positive whole numbers that add up to the number of values.
    """
    is_whole = isinstance(starts, (list, tuple)) and all(
        isinstance(count, int) and count > 0 for count in starts
    )
    if not is_whole or (starts and sum(starts) != n_values):
        raise UsageError(
            f"`starts` of series `{name}` must be whole numbers above 0 that add up to its "
            f"{n_values} values, got {starts!r:.80}; leave it empty for a single start"
        )
    return list(starts)


def keep_evenly(
    values: Sequence[float], starts: Sequence[int], most: int
) -> tuple[list[float], list[int]]:
    """Return at most so many values, evenly spaced, and how many of them each start gave."""
    if len(values) <= most:
        return list(values), list(starts)
    step = (len(values) - 1) / (most - 1)
    kept = [round(index * step) for index in range(most)]
    ends = list(accumulate(starts))
    begins = [0, *ends[:-1]]
    counts = [
        sum(begin <= index < end for index in kept)
        for begin, end in zip(begins, ends, strict=False)
    ]
    return [values[index] for index in kept], [count for count in counts if count]
