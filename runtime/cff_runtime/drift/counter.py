"""The sequential rule: Page's cumulative sum, one per signal and direction.

    z_t = (x_t - mean) / spread, cut to at most 4                      of the learnt baseline
    S_t = max(0, S_{t-1} + z_t - k),   k = 2                           alarm where S_t >= h = 20

after Page (1954), "Continuous inspection schemes", Biometrika 41; the same with -z for falling
signals. k is a dead zone: lines wander a little, and a baseline learnt from few parts is off by a
little; a mean that moves by less than k spreads never adds up. A lasting move by m spreads needs
h / (m - k) pictures. Cutting at 4 makes a strange picture worth 2 at most, so that 10 in a row
are the fewest that alarm. The sum began where it was last 0, which is the estimate of since when.
A stream of which a part is strange, such as two suppliers mixed, has no mean to speak of, so shares
are summed as well, the same sum for a coin instead of a normal number:

    T_t = max(0, T_{t-1} + 1 where z_t > 6, else - 1/2)               alarm where T_t >= 10

which grows where more than a third of the pictures are 6 spreads off. How the constants were chosen
stands in `docs/drift.md`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.errors import StorageError
from cff_runtime.jsonfields import take

DEAD_ZONE, LIMIT, LARGEST_Z = 2.0, 20.0, 4.0
STRANGE_Z, USUAL_STEP, STRANGE_LIMIT = 6.0, 0.5, 10.0
_CAP = LIMIT + 10.0  # so that an alarm ends some 15 usual pictures after its cause
_STRANGE_CAP = STRANGE_LIMIT + 5.0


@dataclass
class Counter:
    """The cumulative sums of one signal in one direction.

    Attributes
    ----------
    value : float
        S_t.
    strange : float
        T_t.
    n : int
        Pictures since both were 0.
    total : float
        Sum of their signal, in spreads from the mean, uncut.
    since : str or None
        When both were 0 last.
    alarmed : bool
        Whether one went over its limit and they have not come back to 0 yet.
    """

    value: float = 0.0
    strange: float = 0.0
    n: int = 0
    total: float = 0.0
    since: str | None = None
    alarmed: bool = False

    def add(self, z: float, at: str) -> bool:
        """Count a picture whose signal is `z` spreads in this direction; True where it alarms."""
        self.value = min(max(0.0, self.value + min(z, LARGEST_Z) - DEAD_ZONE), _CAP)
        step = 1.0 if z > STRANGE_Z else -USUAL_STEP
        self.strange = min(max(0.0, self.strange + step), _STRANGE_CAP)
        if self.value == 0.0 and self.strange == 0.0:
            self.n, self.total, self.since, self.alarmed = 0, 0.0, None, False
            return False
        if self.n == 0:
            self.since = at
        self.n += 1
        self.total += z
        if self.alarmed or (self.value < LIMIT and self.strange < STRANGE_LIMIT):
            return False
        self.alarmed = True
        return True

    @property
    def mean_z(self) -> float:
        """Mean of the signal since the sums were 0, in spreads; 0 without pictures."""
        return self.total / self.n if self.n else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Counter":
        """Read what `to_dict` gave.

        Raises
        ------
        StorageError
            If it is not that.
        """
        since = fields.get("since")
        value, n = take(fields, "value", float, StorageError), take(fields, "n", int, StorageError)
        strange = take(fields, "strange", float, StorageError)
        if not 0.0 <= value <= _CAP or not 0.0 <= strange <= _STRANGE_CAP or n < 0:
            raise StorageError(
                f"`value` must be 0 to {_CAP:g}, `strange` 0 to {_STRANGE_CAP:g} and `n` 0 or "
                f"more, got {value}, {strange} and {n}"
            )
        return cls(
            value=value,
            strange=strange,
            n=n,
            total=take(fields, "total", float, StorageError),
            since=since if isinstance(since, str) else None,
            alarmed=take(fields, "alarmed", bool, StorageError),
        )
