"""The report of `cff-bench search` as text."""

from collections.abc import Mapping
from typing import Any

from cff_bench.precision.facts import bundle_lines
from cff_bench.search.measurement import BACKEND
from cff_bench.timing import format_table

_HEADER = (
    "K", "bank", "rows", "MB", "search ms", "share", "of decoded",
    "to plain", "us/row", "peak MB", "difference"
)  # fmt: skip


def format_search(report: Mapping[str, Any]) -> str:
    """Return the report as text; what fails stands at its end."""
    settings, environment = report["settings"], report["environment"]
    facts = [
        *bundle_lines(report["bundle"]),
        f"images   {report['images']['n_encoded']} references of {report['images']['folder']}",
        f"machine  {environment['board'] or environment['cpu_model']}, "
        f"{environment['cores_available']} cores, {settings['threads']} threads, "
        f"{environment['date_utc']}",
        f"run      batch 1, medians of n = {settings['n']} after {settings['warmup']} of warm-up",
        "rest     "
        + ", ".join(f"{name} {s['p50_ms']:.2f} ms" for name, s in report["inspection"].items()),
    ]
    lines = [*facts, "", format_table(_HEADER, [_row(entry) for entry in report["banks"]]), ""]
    for entry in report["banks"]:
        if "compression" in entry:
            c = entry["compression"]
            lines.append(
                f"K = {entry['shots']}, {entry['name']}: {c['seconds']:.1f} s "
                f"({c['processor_seconds']:.1f} s of processor time); farthest dropped row "
                f"{max(c['largest']):.4f}, the map rises by {c['map_rise_largest']:.2f} at most"
            )
    int8 = report["int8_preselection"]
    shares = ", ".join(f"{stage['candidates_share']:.1%}" for stage in int8["stages"])
    recheck = sum(stage["recheck_ms"] for stage in int8["stages"])
    plain = sum(stage["plain_ms"] for stage in int8["stages"])
    lines.append(
        f"int8 pre-selection at K = {int8['shots']} would leave {shares} of the pairs (by stage) "
        f"to float32: {recheck:.1f} ms, the whole search takes {plain:.1f} ms"
    )
    return "\n".join((*lines, *_failures(report)))


def too_slow(report: Mapping[str, Any]) -> bool:
    """Return whether the search takes a larger share than the settings allow."""
    return bool(_failures(report))


def _failures(report: Mapping[str, Any]) -> list[str]:
    limit = report["settings"]["max_share"]
    first = next(entry for entry in report["banks"] if entry["name"] == BACKEND)
    if limit is None or first["share"] <= limit:
        return []
    return [f"K = {first['shots']}: the search takes {first['share']:.1%}, limit {limit:.1%}"]


def _row(entry: Mapping[str, Any]) -> list[str]:
    peak = entry["peak_beyond_bank_mb"]
    return [
        str(entry["shots"]),
        entry["name"],
        str(sum(entry["bank_rows"])),
        f"{entry['bank_mb']:.1f}",
        f"{entry['search']['p50_ms']:.2f}",
        f"{entry['share']:.1%}",
        f"{entry['share_of_decoded']:.1%}",
        f"{entry['ratio_to_plain']:.2f}",
        f"{entry['us_per_row']:.3f}",
        "" if peak is None else f"{peak:.1f}",
        f"{entry['max_difference_to_float64']:.1e}",
    ]
