"""One self-contained HTML page of an evaluation: plots, tables, pictures; no network, no script."""

import base64
import html
import io
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from PIL import Image

from cff_edge.evaluation.cells import PICTURES_FOLDER
from cff_edge.evaluation.plots import legend, plot_metric
from cff_edge.evaluation.printed_tables import METRIC_LABELS, Table
from cff_edge.evaluation.summary import DatasetSummary
from cff_runtime.storage import atomic_write

_TILE_PX = 176
_ROWS_PER_PRODUCT = 4
_JPEG_QUALITY = 80
_PLOTTED = ("image_auroc", "pixel_auroc", "pixel_ap", "pro")
_FIRST_PICTURES = ("input", "mask")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto;
padding: 0 1rem; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.4rem; } h3 { margin: 1.6rem 0 .2rem; }
h4 { margin: 1rem 0 .4rem; }
.muted { opacity: .75; margin-top: 0; font-size: .92rem; max-width: 62rem; }
.warning { border-left: 4px solid #f9a825; padding: .4rem .9rem; background: #f9a8251a; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left;
white-space: nowrap; vertical-align: bottom; }
th.figure, td.figure { text-align: right; font-variant-numeric: tabular-nums;
padding: .25rem .6rem; }
tr.new td { border-top: 2px solid #888c; }
summary { cursor: pointer; margin: .6rem 0; }
.plots { display: grid; gap: 1rem;
grid-template-columns: repeat(auto-fill, minmax(min(265px, 100%), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none; }
.legend svg { width: 30px; height: 12px; margin-right: .4rem; }
.pictures td { border: 0; padding: 0 4px 4px 0; } .pictures th { border: 0; }
.pictures img { display: block; width: 132px; height: auto; }
pre { white-space: pre-wrap; font-size: .85rem; }
"""


def write_page(
    path: Path,
    datasets: Sequence[DatasetSummary],
    tables: Sequence[Table],
    provenance: Mapping[str, Any],
) -> None:
    """Write the page; pictures are read from the folder ``pictures`` beside it.

    Parameters
    ----------
    path : Path
    datasets : sequence of DatasetSummary
        What is plotted.
    tables : sequence of Table
        What is printed.
    provenance : mapping
        ``commands``, ``versions`` and ``warnings`` of the cells.

    Raises
    ------
    StorageError
        If the page cannot be written.
    """
    body = [
        "<h1>Evaluation</h1>",
        *(_warning(text) for text in provenance["warnings"]),
        *(_dataset(dataset, tables, path.parent / PICTURES_FOLDER) for dataset in datasets),
        *(_table(table) for table in tables if table.dataset is None),
        _provenance(provenance),
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation - cff-edge</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>"
    )
    atomic_write(path, page.encode())


def _warning(text: str) -> str:
    return f'<p class="warning">{html.escape(text)}</p>'


def _dataset(dataset: DatasetSummary, tables: Sequence[Table], pictures: Path) -> str:
    own = (_table(table) for table in tables if table.dataset == dataset.name)
    return (
        f"<h2>{html.escape(dataset.name)}</h2>{_plots(dataset)}{''.join(own)}"
        f"{_pictures(pictures / dataset.name)}"
    )


def _plots(dataset: DatasetSummary) -> str:
    methods = sorted({row.method for row in dataset.rows})
    figures = [
        plot_metric(METRIC_LABELS[metric], metric, dataset.rows, methods) for metric in _PLOTTED
    ]
    if not dataset.rows:
        return ""
    return (
        f'<p class="muted">Mean over {_count(dataset.products, "product")} against the number of '
        "good references K, per cent. Bars: one standard deviation over seeds, where there are "
        f"several. Each plot has its own scale.</p>{legend(methods)}"
        f'<div class="plots">{"".join(figures)}</div>'
    )


def _table(table: Table) -> str:
    head = "".join(
        f"<th{_figure_class(column, table)}>{html.escape(cell)}</th>"
        for column, cell in enumerate(table.header)
    )
    rows = []
    for row, before in zip(table.rows, (None, *table.rows), strict=False):
        span = len(table.header) - len(row) + 1
        cells = "".join(
            f"<td{_figure_class(column, table)}>{html.escape(cell)}</td>"
            for column, cell in enumerate(row[: -1 if span > 1 else None])
        )
        if span > 1:
            cells += f'<td colspan="{span}">{html.escape(row[-1])}</td>'
        is_new = before is not None and row[0] != before[0]  # another K
        rows.append(f"<tr{' class=new' if is_new else ''}>{cells}</tr>")
    inside = (
        f'<p class="muted">{html.escape(table.note)}</p><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    title = html.escape(table.title)
    if table.folded:
        return f"<details><summary><b>{title}</b></summary>{inside}</details>"
    return f"<h3>{title}</h3>{inside}"


def _figure_class(column: int, table: Table) -> str:
    return ' class="figure"' if column >= table.n_names else ""


def _pictures(folder: Path) -> str:
    """Show images, true masks and every method's map, side by side."""
    products = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    sections = "".join(_product_pictures(product) for product in products)
    if not sections:
        return ""
    return (
        f"<h3>{html.escape(folder.name)}: pictures</h3>"
        '<p class="muted">One colour scale per method and product, from the median of its maps '
        "over all test images to their 99.5th percentile: a colour means the same in every row of "
        "a column, so that a good part stays dark. Between methods the scales differ.</p>"
        + sections
    )


def _product_pictures(folder: Path) -> str:
    by_image: dict[int, dict[str, Path]] = defaultdict(dict)
    for path in folder.glob("*_*.png"):
        index, _, name = path.stem.partition("_")
        if index.isdecimal():
            by_image[int(index)][name] = path
    if not by_image:
        return ""
    found = {name for pictures in by_image.values() for name in pictures}
    names = [*_FIRST_PICTURES, *sorted(found - set(_FIRST_PICTURES))]
    indices, n_shown = sorted(by_image), min(len(by_image), _ROWS_PER_PRODUCT)
    shown = [indices[row * len(indices) // n_shown] for row in range(n_shown)]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(f"<tr>{_picture_cells(by_image[index], names, index)}</tr>" for index in shown)
    return (
        f"<h4>{html.escape(folder.name)}, {len(shown)} of {_count(by_image, 'picture')}</h4>"
        f'<div class="wide"><table class="pictures"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _picture_cells(pictures: Mapping[str, Path], names: Iterable[str], index: int) -> str:
    return "".join(
        f'<td><img alt="{html.escape(name)} of image {index}" src="{_data_url(pictures[name])}">'
        "</td>"
        if name in pictures
        else "<td></td>"
        for name in names
    )


def _data_url(path: Path) -> str:
    data = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((_TILE_PX, _TILE_PX), Image.Resampling.BOX)
        small.save(data, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _provenance(provenance: Mapping[str, Any]) -> str:
    commands = "\n".join(shlex.join(command) for command in provenance["commands"])
    versions = "\n".join(
        ", ".join(f"{name} {version}" for name, version in versions.items())
        for versions in provenance["versions"]
    )
    seeds = ", ".join(map(str, provenance["seeds"]))
    return (
        "<h2>How these were made</h2>"
        f"<pre>{html.escape(commands)}</pre><p>Seeds {seeds}.</p>"
        f'<p class="muted">{html.escape(versions)}</p>'
        '<p class="muted">Every figure in full, and the cells that it comes from: '
        "<code>tables.json</code>.</p>"
    )
