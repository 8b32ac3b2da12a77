#!/usr/bin/env python3
"""Write docs/performance.md from the reports in benchmarks/results/bench.

`--check` changes nothing and fails if the page differs from its JSON.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cff_bench.report.all_parts import PARTS
from cff_bench.report.document import Report
from cff_bench.report.facts import machine_facts
from cff_bench.report.markdown import format_markdown
from cff_bench.report.reading import load_reports
from cff_runtime.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("benchmarks/results/bench")
PAGE = Path("docs/performance.md")

_HEAD = """# Performance

What inspection costs, as measured. Every figure here comes from a file in
[benchmarks/results/bench](../benchmarks/results/bench), each of which one command made: it stands
above its figures. This page is written by `scripts/performance_page.py`. `make bench` measures all
of it anew on your machine and puts it, with plots, into `build/bench/report.html`;
`make bench-full` adds what takes long.

Medians unless a column says otherwise; n is the number of timings. A dash is what could not be read
or was not measured. Ratios come from one run in which both sides took turns; milliseconds of
different runs or machines do not compare, except by `cff-bench compare`, whose intervals hold what
differs between two starts of one build.
"""


def render(root: Path) -> str:
    """Return the page.

    Raises
    ------
    UsageError
        If there is no report, or a file is none.
    """
    reports = [report for path in _files(root) for report in load_reports(path)]
    if not reports:
        raise UsageError(
            f"`{RESULTS}` must hold reports, got none; write them with `cff-bench ... --json`"
        )
    order = {kind: index for index, kind in enumerate(PARTS)}
    reports.sort(key=lambda report: (order.get(report.kind, len(order)), report.kind))
    parts = [_HEAD, _machines(reports), _checks(reports), format_markdown(reports, level=2)]
    return "\n".join(part for part in parts if part)


def _files(root: Path) -> list[Path]:
    return sorted((root / RESULTS).glob("*.json"))


def _machines(reports: Sequence[Report]) -> str:
    """Return the machines in words, each with the reports that came from it."""
    found: dict[str, list[str]] = {}
    for report in reports:
        facts = machine_facts(report.environment)
        words = ", ".join(facts[name] for name in ("machine", "system") if name in facts)
        gpu = facts.get("GPU", "unknown")
        found.setdefault(f"{words}; GPU: {gpu}", []).append(report.kind)
    lines = [f"- {words} ({', '.join(kinds)})" for words, kinds in found.items()]
    return "Measured on:\n\n" + "\n".join(lines) + "\n"


def _checks(reports: Sequence[Report]) -> str:
    checks = [check for report in reports for check in report.checks]
    if not checks:
        return ""
    held = sum(check.passed is True for check in checks)
    missing = [check.name for check in checks if check.passed is None]
    failed = [check.name for check in checks if check.passed is False]
    words = f"{held} of {len(checks)} limits that the project holds itself to hold."
    if failed:
        words += f" Not held: {'; '.join(failed)}."
    if missing:
        words += f" Not measured: {'; '.join(missing)}."
    return words + "\n"


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Write or check the page; return the exit code."""
    try:
        after = render(root)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    path = root / PAGE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before == after:
        return 0
    if "--check" in argv:
        sys.stderr.write(f"{PAGE} differs from the JSON; run scripts/performance_page.py\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
