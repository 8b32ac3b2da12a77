"""What came of a replay: counts, the changed verdicts, what could not be scored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cff_runtime.replay.rescoring import VERDICTS, Failure, Rescored


@dataclass
class Tally:
    """Counts of everything, the changed parts and the failures themselves.

    Attributes
    ----------
    verdicts : counter of (old verdict, new verdict)
    known : counter of (old verdict, new verdict, is_good)
        Of the parts that something is known of.
    relative_scores : list of (old relative_score, new relative_score, is_changed)
        Of every part, for the picture: three numbers a part.
    changed : list of Rescored
    failures : list of Failure
    """

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    known: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    relative_scores: list[tuple[float, float, bool]] = field(default_factory=list)
    changed: list[Rescored] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def add(self, part: Rescored) -> None:
        """Count a part."""
        pair = (part.old.verdict, part.new.verdict)
        self.verdicts[pair] += 1
        if part.is_good is not None:
            self.known[pair[0], pair[1], part.is_good] += 1
        self.relative_scores.append((part.old.relative, part.new.relative, part.is_changed))
        if part.is_changed:
            self.changed.append(part)

    @property
    def n_scored(self) -> int:
        """Parts that both sides scored."""
        return len(self.relative_scores)

    @property
    def n_better(self) -> int:
        """Changed verdicts that are nearer to what is known."""
        return sum(part.is_better is True for part in self.changed)

    @property
    def n_worse(self) -> int:
        """Changed verdicts that are further from what is known."""
        return sum(part.is_better is False for part in self.changed)

    def by_movement(self) -> list[Rescored]:
        """Return the changed parts, the furthest moved first."""
        return sorted(self.changed, key=lambda part: -abs(part.shift))

    def median_shift(self) -> float:
        """Return the median of all shifts, 0 without a part."""
        shifts = [new - old for old, new, _ in self.relative_scores]
        return float(np.median(shifts)) if shifts else 0.0

    def largest_shift(self) -> float:
        """Return the largest shift without its sign, 0 without a part."""
        return max((abs(new - old) for old, new, _ in self.relative_scores), default=0.0)

    def rates(self, is_new: bool) -> dict[str, float]:
        """Return the shares of known parts judged wrongly by one side.

        ``false_rejects`` of the good ones, ``missed`` (passed) of the defective ones, and
        ``review`` of all; a share without a part is left out.
        """
        side = 1 if is_new else 0
        n = Counter(good for *_, good in self.known.elements())
        wrong: Counter[str] = Counter()
        for (*pair, is_good), count in self.known.items():
            if pair[side] == "review":
                wrong["review"] += count
            elif (pair[side] == "reject") == is_good:
                wrong["false_rejects" if is_good else "missed"] += count
        totals = {"false_rejects": n[True], "missed": n[False], "review": n.total()}
        return {name: wrong[name] / total for name, total in totals.items() if total}

    def sentence(self) -> str:
        """Return the outcome in a line."""
        ways = ", ".join(
            f"{count} {old} to {new}"
            for (old, new), count in sorted(self.verdicts.items(), key=_strictness)
            if old != new
        )
        n = len(self.changed)
        text = f"{n} of {_count(self.n_scored, 'verdict')} changed"
        text += f": {ways}" if ways else ""
        if self.known:
            text += f"; {self.n_better} for the better, {self.n_worse} for the worse"
            unknown = n - self.n_better - self.n_worse
            text += f", {unknown} of parts nothing is known of" if unknown else ""
        if self.failures:
            text += f"; {_count(len(self.failures), 'image')} could not be scored"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return counts, changes and failures, ready for JSON."""
        return {
            "n_scored": self.n_scored,
            "n_changed": len(self.changed),
            "n_failed": len(self.failures),
            "verdicts": {
                f"{old} to {new}": count for (old, new), count in sorted(self.verdicts.items())
            },
            "n_better": self.n_better if self.known else None,
            "n_worse": self.n_worse if self.known else None,
            "old_rates": self.rates(is_new=False),
            "new_rates": self.rates(is_new=True),
            "median_shift": self.median_shift(),
            "largest_shift": self.largest_shift(),
            "changes": [part.to_dict() for part in self.by_movement()],
            "failures": [{"image": f.image, "error": f.error} for f in self.failures],
        }


def used_verdicts(tally: Tally) -> Sequence[str]:
    """Return the verdicts that occurred, mild to strict; pass and reject in any case."""
    seen = {verdict for pair in tally.verdicts for verdict in pair} | {"pass", "reject"}
    return [verdict for verdict in VERDICTS if verdict in seen]


def _strictness(item: tuple[tuple[str, str], int]) -> tuple[int, int]:
    (old, new), _ = item
    return VERDICTS.index(old), VERDICTS.index(new)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
