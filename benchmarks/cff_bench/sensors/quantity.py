"""What a sensor measures, and what every source of such values can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

GAUGE, RATE, COUNT = "gauge", "rate", "count"


@dataclass(frozen=True)
class Quantity:
    """One thing that a machine tells.

    Attributes
    ----------
    name : str
        Stable key, such as ``cpu_clock``.
    title, unit : str
    source : str
        File or tool that tells it.
    kind : {'gauge', 'rate', 'count'}
        A gauge is a value at a moment. The others are counters: of a rate the increase per second
        is told, of a count the increase.
    """

    name: str
    title: str
    unit: str
    source: str
    kind: str = GAUGE


class Source(Protocol):
    """Something that tells quantities. It is made by looking at the machine once."""

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Everything that it tells, or would if it could."""
        ...

    @property
    def reasons(self) -> Mapping[str, str]:
        """Name of a quantity -> why it cannot be told here."""
        ...

    def read(self) -> Mapping[str, float]:
        """Return what can be told now, by name; cheap, and never fails."""
        ...

    @property
    def spent_s(self) -> float:
        """Processor time of what was started for it."""
        ...

    def close(self) -> None:
        """End whatever was started for it."""
        ...


class FileSource:
    """A source that reads files and starts nothing; holds what all of these share."""

    def __init__(self) -> None:
        self._quantities: list[Quantity] = []
        self._reasons: dict[str, str] = {}

    @property
    def quantities(self) -> Sequence[Quantity]:
        """Everything that it tells, or would if it could."""
        return self._quantities

    @property
    def reasons(self) -> Mapping[str, str]:
        """Name of a quantity -> why it cannot be told here."""
        return self._reasons

    @property
    def spent_s(self) -> float:
        """Nothing was started, so nothing was spent."""
        return 0.0

    def close(self) -> None:
        """Nothing was started."""

    def _add(self, quantity: Quantity, reason: str = "") -> None:
        self._quantities.append(quantity)
        if reason:
            self._reasons[quantity.name] = reason
