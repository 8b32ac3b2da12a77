"""The command `cff-run drift`: what drift monitoring says of the records of a watch."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cff_runtime.console import say
from cff_runtime.drift.baseline import N_LEARN, start_limits
from cff_runtime.drift.replay import replay
from cff_runtime.errors import UsageError
from cff_runtime.profile import Profile
from cff_runtime.storage import sha256_file


def add_drift_parser(subparsers: Any) -> None:
    """Add ``drift`` to the subparsers of ``cff-run``."""
    parser = subparsers.add_parser("drift", help="has the line changed? from records of `watch`")
    parser.add_argument(
        "records", type=Path, nargs="+", metavar="RECORDS", help="folders or .jsonl files"
    )
    parser.add_argument(
        "--profile", type=Path, metavar="P", help="compare the first pictures with its references"
    )
    parser.add_argument(
        "--learn",
        type=int,
        default=N_LEARN,
        metavar="N",
        help="passed pictures that say what is usual (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="JSON lines to stdout")
    parser.set_defaults(command=run_drift)


def run_drift(arguments: argparse.Namespace) -> int:
    """Print the alarms, one a line; return 0 whether there are any or none.

    Raises
    ------
    CffError
        If records or the profile cannot be read.
    """
    limits = profile_id = None
    if arguments.profile is not None:
        limits = start_limits(Profile.load(arguments.profile).means)
        profile_id = sha256_file(arguments.profile)
    counted = _Counted(_records(arguments.records))
    n_alarms = 0
    for record, alarm in replay(counted, limits, profile_id, arguments.learn):
        n_alarms += 1
        about = {name: record.get(name) for name in ("source", "seq", "name")}
        if arguments.json:
            say(json.dumps({**about, **alarm.to_dict()}))
        else:
            say(f"{alarm.at} {about['source']} {about['seq']} {about['name']}: {alarm}")
    if not arguments.json:
        say(f"{counted.n} inspections, {n_alarms} {'alarm' if n_alarms == 1 else 'alarms'}")
    if not counted.n:
        raise UsageError("records must hold inspections of `cff-run watch`, these hold none")
    return 0


class _Counted:
    """An iterable of records that counts the inspections in it."""

    def __init__(self, records: Iterator[dict[str, Any]]) -> None:
        self.n = 0
        self._records = records

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in self._records:
            self.n += "score" in record
            yield record


def _records(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"`{path}` must hold records, files named .jsonl, it holds none")
        for file in files:
            try:
                with file.open("rb") as lines:
                    yield from filter(None, map(_record, lines))
            except OSError as error:
                raise UsageError(f"`{file}` must be readable: {error.strerror}") from error


def _record(line: bytes) -> dict[str, Any] | None:
    """Parse a line; a torn one, which a power cut leaves, is passed over."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
