"""The report: measured now, or taken over from the JSON of an earlier run, part by part."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cff_bench.environment import collect_environment
from cff_bench.report.document import Check, Column, Plot, PlotSeries, Report, Series, Table
from cff_bench.tfa_net.accuracy import judge_networks
from cff_bench.tfa_net.latency import time_networks
from cff_bench.tfa_net.settings import (
    CFF,
    LABELS,
    METRICS,
    PARTS,
    PLAIN,
    TRAINED,
    UNTRAINED,
    TfaNetSettings,
)
from cff_bench.tfa_net.training import train_networks
from cff_runtime.errors import UsageError

KIND = "tfa-net"
TITLE = "TFA-Net beside CFF"
MIN_PIXEL_AUROC = 0.85
MAX_TRAINING_MINUTES = 30.0  # of processor time, so that two cores keep it whatever else they do
_STAGES = ("preprocess", "encode", "search", "finish")

Rows = Sequence[Mapping[str, Any]]


def run(settings: TfaNetSettings, earlier: Report | None = None) -> Report:
    """Do the parts asked for and report all that are known.

    Parameters
    ----------
    settings : TfaNetSettings
    earlier : Report, optional
        Whose figures stand for the parts that are not asked for.

    Raises
    ------
    UsageError
        If `earlier` is the report of another command.
    CffError
        Whatever training, exporting, judging and inspecting raise.
    """
    if earlier is not None and earlier.kind != KIND:
        raise UsageError(
            f"`--json` must be a report of `cff-bench {KIND}` to be added to, got one of "
            f"`{earlier.kind}`; give another file"
        )
    facts = dict(earlier.facts) if earlier else {}
    told = dict(earlier.settings) if earlier else {}
    series = list(earlier.series) if earlier else []
    for part in PARTS:
        if part not in settings.parts:
            continue
        environment = collect_environment().to_dict()  # before: our own load is not the machine's
        if part == "latency":
            found, series = time_networks(settings)
        else:
            found = _MEASURED_BY[part](settings)
        where = {"command": list(settings.command), "environment": environment}
        facts[part] = {**found, **where}
        told |= _settings_of(part, settings)
    return build_report(settings.command, told, facts, series)


def build_report(
    command: Sequence[str],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    series: Sequence[Series],
) -> Report:
    """Make tables, plots and checks of the parts that there are.

    Parameters
    ----------
    command : sequence of str
    settings : mapping
    facts : mapping
        Of `PARTS`, what each has found.
    series : sequence of Series
        Raw milliseconds.
    """
    training, accuracy, latency = (facts.get(part) for part in PARTS)
    last = latency or accuracy or training or {}
    tables, plots = [], []
    if accuracy:
        tables += [_accuracy_table(accuracy), _differences_table(accuracy)]
        plots.append(_accuracy_plot(accuracy))
    if training:
        tables.append(_training_table(training))
        plots += list(_loss_plots(training))
    if latency:
        tables += [_latency_table(latency), _stages_table(latency)]
    return Report(
        kind=KIND,
        title=TITLE,
        command=list(command),
        environment=dict(last.get("environment", {})),
        settings=dict(settings),
        series=list(series),
        tables=tables,
        plots=plots,
        checks=list(_checks(training, accuracy)),
        notes=list(dict.fromkeys(_notes(training, accuracy, latency))),
        facts=dict(facts),
    )


def _settings_of(part: str, settings: TfaNetSettings) -> dict[str, Any]:
    if part == "training":
        return {"products": list(settings.products), "overrides": list(settings.overrides)}
    if part == "accuracy":
        return {"shots": list(settings.shots), "draws": settings.seeds}
    timed = {"n": settings.n, "warmup": settings.warmup, "threads": settings.threads}
    return {**timed, "backend": "onnxruntime, CPUExecutionProvider"}


def _accuracy_table(accuracy: Mapping[str, Any]) -> Table:
    rows = []
    for row in accuracy["rows"]:
        flat = {name: row[name] for name in ("product", "k", "method", "n_draws")}
        for metric in METRICS:
            flat |= {f"{metric}_{part}": value for part, value in row[metric].items()}
        rows.append(flat)
    columns = [
        Column("product", "product", "left"),
        Column("k", "K"),
        Column("method", "row", "left"),
        Column("n_draws", "draws"),
    ]
    for metric, title in METRICS.items():
        columns.append(Column(f"{metric}_mean", title, spec=".3f"))
        columns.append(Column(f"{metric}_std", "±", spec=".3f"))
    columns.append(Column("pixel_auroc_worst", "worst pixel AUROC", spec=".3f"))
    note = "Means over draws of references, ±: their deviation. " + _labels(accuracy["rows"])
    return Table(
        "accuracy", "On the same test images, with the same references", columns, rows, note
    )


def _labels(rows: Rows) -> str:
    named = dict.fromkeys(row["method"] for row in rows)
    return "; ".join(f"{name}: {LABELS.get(name, name)}" for name in named) + "."


def _differences_table(accuracy: Mapping[str, Any]) -> Table:
    columns = [
        Column("product", "product", "left"),
        Column("k", "K"),
        Column("minus", f"{TRAINED} minus", "left"),
        Column("metric", "metric", "left"),
        *(Column(name, name, spec="+.3f") for name in ("mean", "low", "high")),
        Column("p_value", "p", spec=".3f"),
    ]
    names = [column.name for column in columns]
    rows = [
        {**{name: row[name] for name in names}, "metric": METRICS[row["metric"]]}
        for row in accuracy["differences"]
    ]
    note = "Paired, with 95 % intervals over draws and test images."
    return Table("differences", "Paired differences", columns, rows, note)


def _accuracy_plot(accuracy: Mapping[str, Any]) -> Plot:
    rows = accuracy["rows"]
    series = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        x = [f"{row['product']}, K = {row['k']}" for row in own]
        series.append(PlotSeries(method, x, [row["pixel_auroc"]["mean"] for row in own]))
    title = METRICS["pixel_auroc"]
    return Plot("pixel_auroc", title, "bar", y_label=title, series=series, spec=".2f")


def _training_table(training: Mapping[str, Any]) -> Table:
    columns = [
        Column("product", "product", "left"),
        Column("n_normals", "normals"),
        Column("n_held_out", "held out"),
        Column("n_parameters", "parameters", spec=","),
        Column("n_epochs", "epochs"),
        Column("cpu_minutes", "CPU minutes", spec=".1f"),
        Column("wall_minutes", "minutes", spec=".1f"),
        Column("loss", "last loss", spec=".3f"),
        Column("held_out_loss", "of those held out", spec=".3f"),
    ]
    rows = [
        {
            **{column.name: one.get(column.name) for column in columns},
            "loss": _last(one["losses"]),
            "held_out_loss": _last(one["held_out_losses"]),
        }
        for one in training["products"]
    ]
    note = "Of the whole command, features of the trunk included."
    return Table("training", "What training took", columns, rows, note)


def _last(values: Sequence[float | None]) -> float | None:
    return values[-1] if values else None


def _loss_plots(training: Mapping[str, Any]) -> Iterator[Plot]:
    for one in training["products"]:
        n_epochs = len(one["losses"])
        if n_epochs < 2:
            continue
        x = [float(epoch) for epoch in range(1, n_epochs + 1)]
        series = [PlotSeries("normals trained on, masked", x, list(one["losses"]), style="line")]
        if one["held_out_losses"][0] is not None:
            held_out = PlotSeries(
                "normals held out, unmasked", x, list(one["held_out_losses"]), style="line"
            )
            series.append(held_out)
        name, title = f"loss_{one['product']}", f"Loss over training, {one['product']}"
        yield Plot(name, title, "line", "epoch", "loss", series=series)


def _latency_table(latency: Mapping[str, Any]) -> Table:
    specs = {
        "p50_ms": ("p50 ms", ".2f"),
        "p95_ms": ("p95", ".2f"),
        "p99_ms": ("p99", ".2f"),
        "jitter_ms": ("jitter", ".2f"),
        "images_s": ("images/s", ".1f"),
        "ratio": (f"of {latency['reference']}", ".2f"),
        "ratio_low": ("from", ".2f"),
        "ratio_high": ("to", ".2f"),
        "graph_mb": ("graphs MB", ".1f"),
        "bundle_mb": ("bundle MB", ".1f"),
        "profile_mb": ("profile MB", ".1f"),
    }
    columns = [
        Column("name", "", "left"),
        Column("n", "n"),
        *(Column(name, title, spec=spec) for name, (title, spec) in specs.items()),
    ]
    names = [column.name for column in columns]
    rows = [{name: row[name] for name in names} for row in latency["rows"]]
    note = (
        "From an image in memory to score, map and regions. Ratios of medians of the same rounds, "
        "with 95 % intervals. Bundle: all precisions and golden answers together."
    )
    title = f"One inspection of {latency['product']}, K = {latency['k']}, by turns"
    return Table("latency", title, columns, rows, note)


def _stages_table(latency: Mapping[str, Any]) -> Table:
    columns = [
        Column("name", "", "left"),
        *(Column(name, f"{name} ms", spec=".2f") for name in _STAGES),
    ]
    rows = [{"name": row["name"], **row["stages_ms"]} for row in latency["rows"]]
    return Table("stages", "Where the time goes, medians", columns, rows)


def _checks(
    training: Mapping[str, Any] | None, accuracy: Mapping[str, Any] | None
) -> Iterator[Check]:
    for one in training["products"] if training else ():
        minutes = one["cpu_minutes"]
        if one["n_epochs_measured"] != one["n_epochs"]:
            minutes = None
        yield Check.of(
            f"training of {one['product']}", minutes, MAX_TRAINING_MINUTES, "CPU minutes"
        )
    if not accuracy:
        return
    k = max(row["k"] for row in accuracy["rows"] if row["method"] == PLAIN)  # that all have
    products = list(dict.fromkeys(row["product"] for row in accuracy["rows"]))
    for product in products:
        means = {
            row["method"]: row["pixel_auroc"]["mean"]
            for row in accuracy["rows"]
            if (row["product"], row["k"]) == (product, k)
        }
        if means[CFF] >= MIN_PIXEL_AUROC:  # where it does not, neither is asked to
            name = f"pixel AUROC of {TRAINED}, {product}, K = {k}"
            yield Check.of(name, means[TRAINED], MIN_PIXEL_AUROC, better="higher")
        low = _lower_end(accuracy["differences"], product, k, PLAIN)
        yield Check.of(_minus(PLAIN, product, k), low, 0.0, better="higher")
    lows = [_lower_end(accuracy["differences"], product, k, UNTRAINED) for product in products]
    best = max((low for low in lows if low is not None), default=None)
    # statistics alone leave nothing to gain on some products
    yield Check.of(_minus(UNTRAINED, "best product", k), best, 0.0, better="higher")


def _minus(other: str, product: str, k: int) -> str:
    return f"{TRAINED} minus {other}, pixel AUROC, {product}, K = {k}, lower end"


def _lower_end(differences: Rows, product: str, k: int, other: str) -> float | None:
    wanted = (product, k, other, "pixel_auroc")
    return next(
        (
            row["low"]
            for row in differences
            if (row["product"], row["k"], row["minus"], row["metric"]) == wanted
        ),
        None,
    )


def _notes(
    training: Mapping[str, Any] | None,
    accuracy: Mapping[str, Any] | None,
    latency: Mapping[str, Any] | None,
) -> Iterable[str]:
    for one in training["products"] if training else ():
        yield from one["notes"]
        if one["n_epochs_measured"] != one["n_epochs"]:
            yield (
                f"training of {one['product']}: times are of {one['n_epochs_measured'] or 0} of "
                f"{one['n_epochs']} epochs"
            )
    if accuracy:
        yield (
            f"{CFF}: {accuracy['cff']['backbone']}, head trained on "
            f"{', '.join(accuracy['cff']['trained_on']) or 'nothing'}"
        )
        for one in accuracy["products"]:
            yield (
                f"{one['product']}: {one['n_images']} test images, {one['n_defective']} of them "
                "defective; references are training images"
            )
        yield from accuracy["cff"]["notes"]
    yield from latency["notes"] if latency else ()


_MEASURED_BY: dict[str, Callable[[TfaNetSettings], dict[str, Any]]] = {
    "training": train_networks,
    "accuracy": judge_networks,
}
