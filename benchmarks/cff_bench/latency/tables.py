"""Tables of the latency report."""

from statistics import median
from typing import TYPE_CHECKING, Any

from cff_bench.latency.cold_start import STEPS
from cff_bench.latency.configurations import STAGES
from cff_bench.latency.figures import device_timings
from cff_bench.report.document import Column, Table, percentile_columns
from cff_bench.sensors import sensor_table
from cff_bench.timing import summarize

if TYPE_CHECKING:
    from cff_bench.latency.measurement import Measured

_MEANING = {
    "decode": "file to pixels",
    "preprocess": "resize, picture checks",
    "host_to_device": "image to the device",
    "encode": "encoder graph",
    "search": "memory banks, score per token",
    "device_to_host": "features to the host",
    "finish": "map, score, verdict, regions",
    "other": "between the stages",
}
NOTE = (
    "From, to: 95 % interval of the median, from the starts' medians where there are several. "
    "Jitter: mean absolute difference of consecutive latencies of one image (RFC 3550, 6.4.1, as a "
    "plain mean). Share: of the mean total."
)


def build_tables(measured: "Measured") -> list[Table]:
    """Return every table, those of what was not measured left out."""
    tables = [_stages(measured), _subjects(measured)]
    for build in (_ratios, _device, _throughput, _cold, _engines):
        table = build(measured)
        if table is not None:
            tables.append(table)
    return [*tables, _memory(measured), sensor_table(measured.sensors)]


def _stages(measured: "Measured") -> Table:
    rows: list[dict[str, Any]] = []
    for facts in measured.facts:
        told = {stage["name"]: stage for stage in facts["stages"]}
        for name in (*STAGES, *(stage for stage in told if stage not in STAGES)):
            row = {"configuration": facts["name"], "stage": name, **told.get(name, {})}
            row["note"] = facts["not_told_apart"].get(name) or _MEANING.get(name, "")
            rows.append(row)
        rows.append(
            {
                "configuration": facts["name"],
                "stage": "total",
                **facts["total"],
                "share": 1.0,
                "note": "wall clock, file to verdict",
            }
        )
    columns = [
        Column("stage", "stage", "left"),
        *_with_ends(percentile_columns()),
        Column("share", "share", spec=".1%"),
        Column("note", "what, or why not", "left"),
    ]
    return Table("stages", "Stages of an inspection", _named(measured, columns), rows, NOTE)


def _with_ends(columns: list[Column]) -> list[Column]:
    """Return columns with the interval of the median beside it."""
    after = [column.name for column in columns].index("p50_ms") + 1
    ends = [Column("low_ms", "from", spec=".2f"), Column("high_ms", "to", spec=".2f")]
    return [*columns[:after], *ends, *columns[after:]]


def _subjects(measured: "Measured") -> Table:
    images = measured.images
    sizes = dict.fromkeys(f"{image['width_px']} x {image['height_px']}" for image in images)
    rows = [
        {
            "configuration": facts["name"],
            "bundle": facts["bundle"]["id"][:12],
            "precision": facts["bundle"]["precision"],
            "input": " x ".join(map(str, facts["bundle"]["input_px"])),
            "product": facts["profile"]["product"],
            "references": facts["profile"]["n_references"],
            "rows": facts["profile"]["bank_rows"],
            "image": ", ".join(sizes),
            "source": ", ".join(image["source"] for image in images),
        }
        for facts in measured.facts
    ]
    columns = [
        Column("bundle", "bundle", "left"),
        Column("precision", "precision", "left"),
        Column("input", "input px"),
        Column("product", "product", "left"),
        Column("references", "K"),
        Column("rows", "bank rows"),
        Column("image", "image px"),
        Column("source", "from", "left"),
    ]
    return Table("subjects", "What was inspected", _named(measured, columns), rows)


def _ratios(measured: "Measured") -> Table | None:
    """Return totals over that of the first configuration, round by round."""
    if len(measured.configurations) == 1:
        return None
    first = [timing["total"] for timing in measured.configurations[0].timings]
    rows = []
    for one in measured.configurations[1:]:
        ratios = [t["total"] / f for t, f in zip(one.timings, first, strict=True)]
        rows.append(
            {
                "configuration": one.name,
                "n": len(ratios),
                "ratio": median(ratios),
                "p50_ratio": median([t["total"] for t in one.timings]) / median(first),
            }
        )
    title = f"Totals over that of `{measured.configurations[0].name}`"
    columns = [
        Column("configuration", "configuration", "left"),
        Column("n", "n"),
        Column("ratio", "median of the rounds' ratios", spec=".3f"),
        Column("p50_ratio", "ratio of p50", spec=".3f"),
    ]
    return Table("ratios", title, columns, rows)


def _device(measured: "Measured") -> Table | None:
    rows: list[dict[str, Any]] = []
    for one in measured.configurations:
        for call, values in device_timings(one).items():
            summary = summarize(values)
            rows.append({"configuration": one.name, "call": call, **vars(summary)})
    columns = [Column("call", "call", "left"), *percentile_columns()]
    note = "Between two events on the device's stream, copies of the call within them."
    title = "On the device"
    return Table("device", title, _named(measured, columns), rows, note) if rows else None


def _throughput(measured: "Measured") -> Table | None:
    rows: list[dict[str, Any]] = []
    for facts in measured.facts:
        rows.append(
            {
                "configuration": facts["name"],
                "streams": "1, as above",
                "per_second": facts["throughput"],
                "p50_ms": facts["total"]["p50_ms"],
                "p99_ms": facts["total"]["p99_ms"],
                "n": facts["total"]["n"],
            }
        )
    for (name, n_streams), turns in measured.streams.items():
        rates = [turn.per_second for turn in turns]
        summary = summarize([total for turn in turns for total in turn.totals_ms])
        rows.append(
            {
                "configuration": name,
                "streams": n_streams,
                "per_second": median(rates),
                "low": min(rates),
                "high": max(rates),
                "p50_ms": summary.p50_ms,
                "p99_ms": summary.p99_ms,
                "n": summary.n,
            }
        )
    columns = [
        Column("streams", "streams"),
        Column("per_second", "images/s", spec=".2f"),
        Column("low", "lowest turn", spec=".2f"),
        Column("high", "highest turn", spec=".2f"),
        Column("p50_ms", "p50 ms", spec=".2f"),
        Column("p99_ms", "p99", spec=".2f"),
        Column("n", "n"),
    ]
    note = (
        "Streams: threads that inspect at the same time through one inspector, the median of turns."
    )
    return Table("throughput", "Throughput", _named(measured, columns), rows, note)


def _cold(measured: "Measured") -> Table | None:
    rows: list[dict[str, Any]] = []
    for name, starts in measured.cold.items():
        if starts:
            steps = {step: median(start.steps_ms[step] for start in starts) for step in STEPS}
            totals = [start.total_ms for start in starts]
            extent = {"total": median(totals), "low": min(totals), "high": max(totals)}
            rows.append({"configuration": name, "n": len(starts), **steps, **extent})
    columns = [
        Column("n", "n"),
        *(Column(step, step, spec=".0f") for step in STEPS),
        Column("total", "total", spec=".0f"),
        Column("low", "lowest", spec=".0f"),
        Column("high", "highest", spec=".0f"),
    ]
    note = (
        "Processes of their own, medians in ms, files in the system's cache. Import: runtime and "
        "the backend's packages. Verify: SHA-256 of every file. Load: graphs, ready to run. First: "
        "first inspection, upload of the banks in it."
    )
    return Table("cold", "Cold start", _named(measured, columns), rows, note) if rows else None


def _engines(measured: "Measured") -> Table | None:
    rows = [{**row, "note": ""} for row in measured.engines]
    rows = rows or [{"note": measured.no_engines}]
    columns = [
        Column("graph", "graph", "left"),
        Column("flavour", "flavour", "left"),
        Column("precision", "precision", "left"),
        Column("gpu", "built for", "left"),
        Column("build_s", "build s", spec=".1f"),
        Column("mb", "MB", spec=".1f"),
        Column("note", "", "left"),
    ]
    return Table("engines", "Building engines", columns, rows)


def _memory(measured: "Measured") -> Table:
    rows: list[dict[str, Any]] = []
    for name, starts in measured.cold.items():
        peaks = [start.peak_bytes for start in starts if start.peak_bytes is not None]
        reason = "needs `--cold-starts`" if not starts else "the system tells no VmHWM"
        rows.append(
            {
                "what": f"host, `{name}`",
                "mb": median(peaks) / 1e6 if peaks else None,
                "note": "peak of a process that opens and inspects alone" if peaks else reason,
            }
        )
    gpus = [row for row in measured.sensors if row.name.startswith("gpu") and row.unit == "MiB"]
    for row in gpus:
        peak = None if row.highest is None else row.highest * 2**20 / 1e6
        rows.append(
            {"what": row.title, "mb": peak, "note": row.reason or "highest while measuring"}
        )
    if not gpus:
        no_gpu = next((row.reason for row in measured.sensors if row.name == "gpu"), "not told")
        rows.append({"what": "device", "mb": None, "note": no_gpu})
    columns = [
        Column("what", "where", "left"),
        Column("mb", "peak MB", spec=".0f"),
        Column("note", "how, or why not", "left"),
    ]
    return Table("memory", "Memory", columns, rows)


def _named(measured: "Measured", columns: list[Column]) -> list[Column]:
    """Return columns with the configuration's name before them where there are several."""
    if len(measured.configurations) == 1:
        return columns
    return [Column("configuration", "configuration", "left"), *columns]
