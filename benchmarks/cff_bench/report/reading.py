"""Reports from JSON: a file that is none, is damaged or is newer is told in one sentence."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from cff_bench.report.document import (
    SCHEMA_VERSION,
    Check,
    Column,
    Mark,
    Plot,
    PlotSeries,
    Report,
    Series,
    Table,
)
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write, read_limited

MAX_BYTES = 64 << 20

_T = TypeVar("_T")

# field -> what stands in it, for those that hold more than plain JSON
_NESTED: dict[type, dict[str, type]] = {
    Report: {"series": Series, "tables": Table, "plots": Plot, "checks": Check},
    Table: {"columns": Column},
    Plot: {"series": PlotSeries, "marks": Mark},
}
_LISTS: dict[type, tuple[str, ...]] = {
    Report: ("command", "notes"),
    Series: ("values",),
    Table: ("rows",),
    PlotSeries: ("x", "y"),
}
_TEXTS = ("kind", "title", "name", "unit", "label", "spec", "note")
_DICTS = ("environment", "settings", "facts")


def report_from_dict(data: Any) -> Report:
    """Return a report from what `Report.to_dict` wrote.

    Raises
    ------
    UsageError
        If it is none, or of another schema.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"a report must have `schema_version` {SCHEMA_VERSION}, got {version!r}; "
            "measure again with this version of cff-bench"
        )
    return _decode(Report, {key: part for key, part in data.items() if key != "schema_version"}, "")


def load_reports(path: Path) -> list[Report]:
    """Return the reports in a file: one, or all of `cff-bench all`.

    Raises
    ------
    UsageError
        If it cannot be read or holds something else.
    """
    try:
        data = json.loads(read_limited(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"`{path}` must be a report that `cff-bench --json` wrote, got: {error}"
        ) from error
    entries = data.get("reports") if isinstance(data, dict) and "reports" in data else [data]
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"`{path}` must hold at least one report, got none")
    try:
        return [report_from_dict(entry) for entry in entries]
    except UsageError as error:
        raise UsageError(f"`{path}`: {error}") from error


def save_reports(path: Path, reports: Sequence[Report]) -> None:
    """Write one report as it is, several as ``{"schema_version": 1, "reports": [...]}``.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    data: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
    data = (
        reports[0].to_dict()
        if len(reports) == 1
        else {**data, "reports": [report.to_dict() for report in reports]}
    )
    atomic_write(path, (_compact(json.dumps(data, indent=1)) + "\n").encode())


def _compact(text: str) -> str:
    """Return indented JSON with lists of numbers on one line each."""
    lines: list[str] = []
    gathered: list[str] = []
    for line in text.splitlines():
        word = line.strip().rstrip(",")
        if gathered:
            if _is_number(word):
                gathered.append(line.strip())
                continue
            if word == "]":
                lines.append(" ".join(gathered).replace("[ ", "[", 1) + line.strip())
                gathered = []
                continue
            lines.extend(gathered)
            gathered = []
        if line.endswith("["):
            gathered = [line]
        else:
            lines.append(line)
    return "\n".join(lines + gathered)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return word == "null"
    return True


def _decode(kind: type[_T], data: Any, path: str) -> _T:
    """Return a dataclass of the report from a dictionary; unknown and missing fields are told."""
    place = f"`{path}`" if path else "the report"
    if not isinstance(data, dict):
        raise UsageError(f"{place} must be an object, got {type(data).__name__}; measure again")
    known = [part.name for part in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UsageError(f"{place} must have the fields of a report, got `{unknown[0]}` as well")
    nested = _NESTED.get(kind, {})
    values = {}
    for name, value in data.items():
        where = f"{path}.{name}" if path else name
        _require_shape(name, name in nested or name in _LISTS.get(kind, ()), value, where)
        if name in nested:
            inner = nested[name]
            value = [_decode(inner, part, f"{where}[{i}]") for i, part in enumerate(value)]
        values[name] = value
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place} must be complete, got: {error}; measure again") from error


def _require_shape(name: str, is_list: bool, value: Any, where: str) -> None:
    fits, words = True, ""
    if is_list:
        fits, words = isinstance(value, list), "a list"
    elif name in _TEXTS:
        fits, words = isinstance(value, str), "text"
    elif name in _DICTS:
        fits, words = isinstance(value, dict), "an object"
    if not fits:
        raise UsageError(f"`{where}` must be {words}, got {type(value).__name__}; measure again")
