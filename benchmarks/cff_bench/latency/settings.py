"""What `cff-bench latency` is asked to measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cff_runtime.errors import UsageError

STREAM_TURNS = 3


@dataclass(frozen=True)
class LatencySettings:
    """What to measure.

    Attributes
    ----------
    bundle, profile : Path
        What `cff-export` and `cff-run enroll` made.
    images : sequence of Path or None
        Parts to inspect, one a round and in turns; read anew for every inspection. Without any, one
        seeded noise image from memory.
    n, warmup : int
        Timed rounds, and those before them at least; warm-up goes on until timings are stable.
    backend : str
        As in `Inspector.open`.
    options : mapping
        Of the backend, as in `Inspector.open`.
    precisions : sequence of str
        Of the encoder; none takes that of the profile.
    compare_with : sequence of Path
        Further bundles, inspected in turns with the first.
    further_profiles : sequence of Path
        Profiles of further precisions and bundles. What has none is enrolled anew with the
        reference images of `profile`.
    streams : sequence of int
        Numbers of threads that inspect at the same time, for the throughput.
    stream_seconds : float
        For each number of them, in `STREAM_TURNS` turns.
    cold_starts : int
        Processes that open the bundle and inspect once; 0 leaves them out.
    warmup_limit_s : float
        Longest warm-up beyond `warmup`; 0 takes exactly `warmup` rounds.
    rest_seconds : float
        How long sensors are read before and after, while nothing runs.
    command : sequence of str
        The command line, for the report.
    starts : int
        Processes, one after the other, that the rounds are split over; with 1 the rounds are
        measured in this one.
    """

    bundle: Path
    profile: Path
    images: Sequence[Path] | None
    n: int
    warmup: int
    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precisions: Sequence[str] = ()
    compare_with: Sequence[Path] = ()
    further_profiles: Sequence[Path] = ()
    streams: Sequence[int] = ()
    stream_seconds: float = 6.0
    cold_starts: int = 0
    warmup_limit_s: float = 30.0
    rest_seconds: float = 1.0
    command: Sequence[str] = ()
    starts: int = 1

    def __post_init__(self) -> None:
        if self.n < 1 or self.warmup < 0 or self.cold_starts < 0:
            raise UsageError(
                "`n` must be at least 1, `warmup` and `cold_starts` at least 0, got "
                f"{self.n}, {self.warmup}, {self.cold_starts}"
            )
        if not 1 <= self.starts <= self.n:
            raise UsageError(
                "`--starts` must be at least 1 and at most the number of rounds, got "
                f"{self.starts} for {self.n} rounds; ask for more rounds with -n, or fewer starts"
            )
        if min(self.streams, default=1) < 1 or self.stream_seconds <= 0:
            raise UsageError(
                "`streams` must be at least 1 and `stream_seconds` above 0, got "
                f"{list(self.streams)}, {self.stream_seconds:g}"
            )
        if self.warmup_limit_s < 0 or self.rest_seconds < 0:
            raise UsageError(
                "`warmup_limit_s` and `rest_seconds` must be at least 0, got "
                f"{self.warmup_limit_s:g}, {self.rest_seconds:g}"
            )

    @property
    def rounds_of_starts(self) -> list[int]:
        """Rounds of every start: as equal as can be, the first ones longer."""
        each, over = divmod(self.n, self.starts)
        return [each + (index < over) for index in range(self.starts)]

    def to_dict(self) -> dict[str, Any]:
        """Return what was asked for, ready for JSON."""
        return {
            "n": self.n,
            "warmup": self.warmup,
            "warmup_limit_s": self.warmup_limit_s,
            "batch": 1,
            "backend": self.backend,
            "options": dict(self.options),
            "precisions": list(self.precisions),
            "compare_with": [str(path) for path in self.compare_with],
            "streams": list(self.streams),
            "stream_seconds": self.stream_seconds,
            "cold_starts": self.cold_starts,
            "starts": self.starts,
            "inside": "one image to score, map and regions; wall clock",
        }
