"""Tables as they are printed: per cent with one decimal, in text and Markdown."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cff_edge.evaluation.published import PublishedRow, dataset_title, published_rows
from cff_edge.evaluation.summary import LEVEL, DatasetSummary, Figure, Row
from cff_edge.metrics import BOOTSTRAP_METRICS, METRIC_NAMES

METRIC_LABELS = {
    "pixel_auroc": "AUROC px",
    "pixel_f1_max": "F1-max px",
    "pixel_ap": "AP px",
    "pro": "PRO",
    "pro_exact": "PRO exact",
    "image_auroc": "AUROC img",
    "image_f1_max": "F1-max img",
    "image_ap": "AP img",
}
NOT_COMPARABLE = (
    "NOT comparable with the results above: these are means over every product and test image of "
    "the data set, which ours do not cover"
)
_NOTHING = "-"
_NONE_RAN = "No method ran."
_NOTE_WIDTH = 110


@dataclass(frozen=True)
class Table:
    """A table to print.

    Attributes
    ----------
    dataset : str or None
        Of our results; None for published figures alone.
    title, note : str
    header : tuple of str
    rows : tuple of tuple of str
        As many cells each as `header`, or fewer: the last one then spans the rest.
    n_names : int
        Leading columns that are names; the others are figures.
    folded : bool
        Whether a page shows it only on request.
    """

    dataset: str | None
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_names: int
    folded: bool = False


def printed_tables(datasets: Sequence[DatasetSummary], n_resamples: int) -> list[Table]:
    """Return all tables: per data set means, intervals and products, then published figures.

    Parameters
    ----------
    datasets : sequence of DatasetSummary
    n_resamples : int
        Of the bootstrap, for the note.
    """
    tables = []
    for dataset in datasets:
        tables.append(_means(dataset))
        if dataset.rows:
            tables += [_intervals(dataset, n_resamples), _products(dataset)]
    if any(dataset.published_as is None for dataset in datasets):
        ks = {row.k for dataset in datasets for row in dataset.rows}
        beside = {dataset.published_as for dataset in datasets}
        names = {row.dataset for row in published_rows()} - beside
        tables += [table for name in sorted(names) if (table := _published(name, ks)).rows]
    return tables


def short_tables(datasets: Sequence[DatasetSummary]) -> list[Table]:
    """Return one table per data set, of methods and K against metrics.

    Published rows stand in it where they may be compared: the data set is complete.
    """
    return [_short(dataset) for dataset in datasets]


def format_table(table: Table, markdown: bool = False) -> str:
    """Return a table in columns, as plain text or Markdown, with title and note."""
    lines = [(cell.replace("|", "\\|") if markdown else cell for cell in row) for row in table.rows]
    cells = [table.header, *(tuple(line) for line in lines)]
    n_columns = len(table.header)
    narrow = [row if len(row) == n_columns else row[:-1] for row in cells]  # what spans is apart
    widths = [max(len(row[c]) for row in narrow if c < len(row)) for c in range(n_columns)]
    padded = [_pad(row, widths, table.n_names, markdown) for row in cells]
    if not markdown:
        ruler = ["-" * width for width in widths]
        body = ["  ".join(row).rstrip() for row in (padded[0], ruler, *padded[1:])]
        note = textwrap.fill(table.note, _NOTE_WIDTH)
        return "\n".join([table.title, note, "", *body, ""])
    ruler = [
        "-" * (width if column < table.n_names else width - 1) + ":" * (column >= table.n_names)
        for column, width in enumerate(widths)
    ]
    body = [f"| {' | '.join(row)} |" for row in (padded[0], ruler, *padded[1:])]
    return "\n".join([f"## {table.title}", "", table.note, "", *body, ""])


def _pad(row: Sequence[str], widths: Sequence[int], n_names: int, markdown: bool) -> list[str]:
    """Align a row's cells; what spans columns keeps its length, in Markdown beside empty cells."""
    padded = [
        cell.ljust(width) if column < n_names else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    if len(row) == len(widths):
        return padded
    empty = [" " * width for width in widths[len(row) :]]
    return [*padded[:-1], row[-1], *(empty if markdown else ())]


def _means(dataset: DatasetSummary) -> Table:
    metrics = METRIC_NAMES
    sources: list[str] = []
    published = [
        _published_row(row, metrics, _number(row.source, sources)) for row in _beside(dataset)
    ]
    notes = [
        f"{dataset.n_images} test images of {', '.join(dataset.products)}. Mean over products, "
        "then mean ± standard deviation over seeds (ddof = 1), per cent."
        if dataset.products
        else _NONE_RAN,
        *_seeds_left_out(dataset),
    ]
    if sources:
        notes.append(
            "Published image figures rest on a score that looks at all test images of a product "
            f"at once (our `april_gan_transductive`). Published: {_footnotes(sources)}."
        )
    return Table(
        dataset=dataset.name,
        title=f"{dataset.name}: mean over {len(dataset.products)} product{_s(dataset.products)}",
        note=" ".join(notes),
        header=("K", "method", "seeds", "image score", *(METRIC_LABELS[name] for name in metrics)),
        rows=_in_order(dataset, (_our_row(row, metrics) for row in dataset.rows), published),
        n_names=4,
    )


def _short(dataset: DatasetSummary) -> Table:
    metrics = METRIC_NAMES
    ours = [
        (str(row.k), row.method, *(_spread(row.figures.get(name)) for name in metrics))
        for row in dataset.rows
    ]
    published = [
        (str(row.k), f"{row.method} (published, {row.table})", *_published_figures(row, metrics))
        for row in _beside(dataset)
    ]
    n_products = len(dataset.products)
    note = (
        f"{dataset.n_images} test images of {n_products} product{_s(dataset.products)}, "
        "mean ± standard deviation over seeds, per cent."
        if n_products
        else _NONE_RAN
    )
    return Table(
        dataset=dataset.name,
        title=dataset.name,
        note=" ".join([note, *_seeds_left_out(dataset)]),
        header=("K", "method", *(METRIC_LABELS[name] for name in metrics)),
        rows=_in_order(dataset, ours, published),
        n_names=2,
    )


def _in_order(
    dataset: DatasetSummary,
    ours: Iterable[tuple[str, ...]],
    published: Iterable[tuple[str, ...]] = (),
) -> tuple[tuple[str, ...], ...]:
    """Sort rows by K, our methods by name, those not run among them, before published ones."""
    not_run = [(str(e.k), e.method, f"not run: {e.reason}") for e in dataset.not_run]
    rows = sorted([*ours, *not_run], key=lambda row: row[1])
    return tuple(sorted([*rows, *published], key=lambda row: int(row[0])))


def _beside(dataset: DatasetSummary) -> list[PublishedRow]:
    """Return the published rows that may stand beside ours; none unless the data set is whole."""
    if dataset.published_as is None:
        return []
    return _published_rows(dataset.published_as, {row.k for row in dataset.rows})


def _seeds_left_out(dataset: DatasetSummary) -> list[str]:
    return [
        f"Seed{_s(row.seeds_left_out)} {_join(row.seeds_left_out)} of {row.method} at K = {row.k} "
        "left out: products are missing."
        for row in dataset.rows
        if row.seeds_left_out
    ]


def _our_row(row: Row, metrics: Iterable[str]) -> tuple[str, ...]:
    figures = (_spread(row.figures.get(name)) for name in metrics)
    return (str(row.k), row.method, str(len(row.seeds)), row.image_score, *figures)


def _intervals(dataset: DatasetSummary, n_resamples: int) -> Table:
    metrics = [name for name in METRIC_NAMES if name in BOOTSTRAP_METRICS]
    rows = [
        (str(row.k), row.method, *(_interval(row.figures.get(name)) for name in metrics))
        for row in dataset.rows
    ]
    return Table(
        dataset=dataset.name,
        title=f"{dataset.name}: {LEVEL:.0%} intervals",
        note=f"Bootstrap over draws of references and test images, {n_resamples} resamples, per "
        "cent. With one seed they speak of other test images alone.",
        header=("K", "method", *(METRIC_LABELS[name] for name in metrics)),
        rows=_in_order(dataset, rows),
        n_names=2,
    )


def _products(dataset: DatasetSummary) -> Table:
    rows = [
        (
            str(row.k),
            row.method,
            str(row.product),
            str(len(row.seeds)),
            *(_spread(row.figures[name]) for name in METRIC_NAMES),
        )
        for row in dataset.product_rows
    ]
    return Table(
        dataset=dataset.name,
        title=f"{dataset.name}: each product",
        note="Mean ± standard deviation over seeds (ddof = 1), per cent.",
        header=(
            *("K", "method", "product", "seeds"),
            *(METRIC_LABELS[name] for name in METRIC_NAMES),
        ),
        rows=_in_order(dataset, rows),
        n_names=4,
        folded=True,
    )


def _published(name: str, ks: set[int]) -> Table:
    rows = _published_rows(name, ks)
    metrics = [m for m in METRIC_NAMES if any(m in row.percent for row in rows)]
    sources: list[str] = []
    printed = [_published_row(row, metrics, _number(row.source, sources)) for row in rows]
    return Table(
        dataset=None,
        title=f"Published, {dataset_title(name)}",
        note=f"{NOT_COMPARABLE}. {_footnotes(sources)}.",
        header=("K", "method", "seeds", "table", *(METRIC_LABELS[metric] for metric in metrics)),
        rows=tuple(printed),
        n_names=4,
        folded=True,
    )


def _published_rows(dataset: str, ks: set[int]) -> list[PublishedRow]:
    rows = [row for row in published_rows() if row.dataset == dataset and row.k in ks]
    return sorted(rows, key=lambda row: row.k)


def _published_row(row: PublishedRow, metrics: Iterable[str], number: int) -> tuple[str, ...]:
    names = (str(row.k), f"{row.method} [{number}]", _NOTHING, f"published, {row.table}")
    return (*names, *_published_figures(row, metrics))


def _published_figures(row: PublishedRow, metrics: Iterable[str]) -> list[str]:
    figures = []
    for name in metrics:
        figure = f"{row.percent[name]:.1f}" if name in row.percent else _NOTHING
        deviation = f" ± {row.deviation[name]:.1f}" if name in row.deviation else ""
        figures.append(figure + deviation)
    return figures


def _number(source: str, sources: list[str]) -> int:
    if source not in sources:
        sources.append(source)
    return sources.index(source) + 1


def _footnotes(sources: Sequence[str]) -> str:
    return "; ".join(f"[{number}] {source}" for number, source in enumerate(sources, 1))


def _spread(figure: Figure | None) -> str:
    if figure is None:
        return _NOTHING
    deviation = "" if figure.std is None else f" ± {100 * figure.std:.1f}"
    return f"{100 * figure.mean:.1f}{deviation}"


def _interval(figure: Figure | None) -> str:
    if figure is None or figure.low is None or figure.high is None:
        return _NOTHING
    return f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def _join(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _s(values: Sequence[object]) -> str:
    return "" if len(values) == 1 else "s"
