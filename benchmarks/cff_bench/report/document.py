"""The shape of a report: raw numbers in the order measured, to be formatted at the very end.

Report            one measurement: what ran, where, and what came out
├── Series        raw samples of one thing; what `cff-bench compare` works on
├── Table         raw numbers in rows, a format for each column
├── Plot          series of points, and marks beside them
└── Check         a limit that the project holds itself to

All of it is ready for JSON and comes back from it; `None` is what could not be read or was not
measured, and is shown as a dash. The names of reports, series, tables and checks are stable keys.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cff_bench.report.samples import keep_evenly, require_starts
from cff_runtime.errors import UsageError

SCHEMA_VERSION = 1
MAX_VALUES = 2000

ALIGNS = ("left", "right")
BETTER = ("lower", "higher")
PLOT_KINDS = ("line", "bar", "scatter", "heatmap", "stacked")
STYLES = ("", "line", "dashed", "points")


@dataclass(frozen=True)
class Series:
    """Raw samples of one thing.

    Attributes
    ----------
    name : str
        Stable key, such as ``latency/encode``.
    unit : str
        Such as ``ms``.
    values : list of float
        In the order measured. Of more than `MAX_VALUES`, evenly spaced ones are kept, so that a
        drift over the run stays visible.
    group : str
        Series that were measured in the same rounds share it.
    role : str
        ``total`` is what `--budget` looks at; ``reference`` is what ratios are taken against.
    n_measured : int
        Number of samples before any were left out; 0 takes the number of values.
    starts : list of int
        How many of the values, in order, came from each start of the process; empty for one start.
    """

    name: str
    unit: str
    values: list[float]
    group: str = ""
    role: str = ""
    n_measured: int = 0
    starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = [float(value) for value in self.values]
        if not self.name or not values or not all(math.isfinite(value) for value in values):
            raise UsageError(
                f"series `{self.name}` must have a name and finite values, got {len(values)} of "
                "them; leave out what was not measured"
            )
        if not self.n_measured:
            object.__setattr__(self, "n_measured", len(values))
        starts = require_starts(self.name, self.starts, len(values))
        values, starts = keep_evenly(values, starts, MAX_VALUES)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "starts", starts)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        Key in the rows.
    title : str
        Header.
    align : {"left", "right"}, default="right"
    spec : str
        Python format of its numbers, such as ``.1f`` or ``.0%``; text is shown as it is.
    """

    name: str
    title: str
    align: str = "right"
    spec: str = ""

    def __post_init__(self) -> None:
        _require_choice("align", self.align, ALIGNS)


@dataclass(frozen=True)
class Table:
    """Rows of raw values; a key that a row lacks counts as None."""

    name: str
    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    note: str = ""


@dataclass(frozen=True)
class PlotSeries:
    """Points of one series of a plot.

    Attributes
    ----------
    name : str
        Label; of a heatmap, the row.
    x : list of float or str
        Positions; of bars, stacks and heatmaps, names of categories.
    y : list of float or None
        Heights; of a heatmap, the values of its cells.
    low, high : list of float or None, optional
        Ends of an interval around each height.
    style : {"", "line", "dashed", "points"}
        "" is what the kind of plot has: a line with points, or points alone.
    """

    name: str
    x: list[Any]
    y: list[Any]
    low: list[Any] | None = None
    high: list[Any] | None = None
    style: str = ""

    def __post_init__(self) -> None:
        _require_choice("style", self.style, STYLES)
        lengths = [len(part) for part in (self.x, self.y, self.low, self.high) if part is not None]
        if len(set(lengths)) > 1:
            raise UsageError(
                f"`x`, `y`, `low` and `high` of `{self.name}` must have the same length, "
                f"got {lengths}"
            )
        for part in (self.y, self.low, self.high):
            if not all(value is None or isinstance(value, (int, float)) for value in part or ()):
                raise UsageError(f"`y`, `low` and `high` of `{self.name}` must be numbers or None")


@dataclass(frozen=True)
class Mark:
    """A labelled line or point beside the series.

    With `x` alone a vertical line, with `y` alone a horizontal one, with both a point.
    """

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Plot:
    """A plot, drawn by `cff_bench.report.svg`.

    Attributes
    ----------
    name, title : str
    kind : {"line", "bar", "scatter", "heatmap", "stacked"}
        Series of bars stand side by side in each category, those of `stacked` on one another.
        A series of a heatmap is a row of it.
    x_label, y_label : str
        With units; of a heatmap, `y_label` also names the rows.
    x_log, y_log : bool
    series : list of PlotSeries
    marks : list of Mark
    spec : str
        Python format of the numbers written beside bars and into cells.
    note : str
        One sentence beneath it.
    """

    name: str
    title: str
    kind: str
    x_label: str = ""
    y_label: str = ""
    x_log: bool = False
    y_log: bool = False
    series: list[PlotSeries] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    spec: str = ".3g"
    note: str = ""

    def __post_init__(self) -> None:
        _require_choice("kind", self.kind, PLOT_KINDS)


@dataclass(frozen=True)
class Check:
    """A limit, the figure beside it, and whether it holds.

    `value` and `passed` are None where it could not be measured here.
    """

    name: str
    value: float | None
    limit: float
    unit: str = ""
    better: str = "lower"
    passed: bool | None = None

    def __post_init__(self) -> None:
        _require_choice("better", self.better, BETTER)

    @classmethod
    def of(
        cls, name: str, value: float | None, limit: float, unit: str = "", better: str = "lower"
    ) -> "Check":
        """Return the check with `passed` worked out: at most the limit, or at least the limit."""
        passed = None
        if value is not None and math.isfinite(value):
            passed = value <= limit if better == "lower" else value >= limit
        return cls(name, value, limit, unit, better, passed)


@dataclass(frozen=True)
class Report:
    """One measurement.

    Attributes
    ----------
    kind : str
        Such as ``latency``; only reports of one kind are compared.
    title : str
    command : list of str
        The command line, word by word.
    environment : dict
        As `Environment.to_dict`, and whatever else was read of the machine.
    settings : dict
        What was asked for: n, warm-up, threads, sizes.
    series, tables, plots, checks : list
    notes : list of str
        What a reader must know beside the figures, a sentence each.
    facts : dict
        Whatever else belongs to the measurement, such as ``bundle_id``; ready for JSON.
    """

    kind: str
    title: str
    command: list[str]
    environment: dict[str, Any]
    settings: dict[str, Any]
    series: list[Series] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [series.name for series in self.series]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise UsageError(f"names of series must differ, got `{doubled[0]}` more than once")

    @property
    def failed(self) -> list[Check]:
        """Checks that do not hold; those that could not be measured are not among them."""
        return [check for check in self.checks if check.passed is False]

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON; a number that is not finite becomes None."""
        plain: dict[str, Any] = _plain({"schema_version": SCHEMA_VERSION, **asdict(self)})
        return plain

    @classmethod
    def from_dict(cls, data: Any) -> "Report":
        """Return the report that `to_dict` wrote.

        Raises
        ------
        UsageError
            If it is none, or of another schema.
        """
        from cff_bench.report.reading import report_from_dict

        return report_from_dict(data)


def format_cell(value: Any, spec: str = "") -> str:
    """Return a cell as text: a dash for what is unknown, yes or no, a formatted number."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return format(value, spec)
    if isinstance(value, (list, tuple)):
        return " + ".join(format_cell(part, spec) for part in value)
    return str(value)


def percentile_columns(spec: str = ".2f") -> list[Column]:
    """Return the columns of a `timing.Summary`: n, p50, p90, p95, p99 and jitter, in ms."""
    parts = (("p50_ms", "p50 ms"), ("p90_ms", "p90"), ("p95_ms", "p95"), ("p99_ms", "p99"))
    return [
        Column("n", "n"),
        *(Column(name, title, spec=spec) for name, title in parts),
        Column("jitter_ms", "jitter", spec=spec),
    ]


def _require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        allowed = ", ".join(f"`{choice}`" for choice in choices)
        raise UsageError(f"`{name}` must be one of {allowed}, got `{value}`")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return [_plain(part) for part in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    try:  # also NumPy's scalars
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None
