"""`parity.html`: what the gate measured, for reading; one file, no network, no script.

Numbers first, with their limits; then what they decide; then maps, as pictures. What passes is
the business of `cff_runtime.parity`: the page marks values, it does not judge a precision.
"""

import base64
import html
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.overlay import heat_map
from cff_runtime.storage import atomic_write
from cff_runtime.verification import DEFECTIVE, GOOD, REFERENCE, GoldenCheck

PARITY_PAGE = "parity.html"
_SIDE_PX = 128  # of a picture's longer side, at most
_HIGH_QUANTILE = 0.995
_REPAIR_FACTS = ("repair", "share_fp32")
_ROLES = {REFERENCE: "reference", GOOD: "good", DEFECTIVE: "defective"}

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e7d32; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --good: #81c784; --bad: #ef7370; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto;
padding: 0 1rem; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin: 2.6rem 0 .3rem; padding-top: .6rem;
border-top: 1px solid var(--line); } h3 { margin: 1.5rem 0 .3rem; break-after: avoid; }
a { color: inherit; } p { margin: .4rem 0; max-width: 62rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.muted { opacity: .75; font-size: .92rem; } .wide { overflow-x: auto; }
.warning { border-left: 4px solid var(--bad); padding: .4rem .9rem; background: #c628281a; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem 1.4rem .2rem 0; text-align: left;
vertical-align: top; overflow-wrap: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td span { white-space: nowrap; } td .muted { font-size: inherit; }
td table td { border: 0; padding: 0 .8rem 0 0; }
tr, figure { break-inside: avoid; }
.pictures { display: grid; gap: .8rem;
grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem; }
figure > div { display: flex; gap: 6px; } figure > div > div { flex: 1; font-size: .8rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { font-size: .88rem; padding-bottom: .3rem; }
.scale { font-size: .85rem; margin: .4rem 0; font-variant-numeric: tabular-nums; }
.scale img { width: 128px; height: 10px; margin: 0 .4rem; }
@media print { :root { color-scheme: light; font-size: 11px; --good: #2e7d32; --bad: #c62828; }
body { margin: 0; padding: 0; max-width: none; font-size: 11px; } * { print-color-adjust: exact; }
th, td { padding-right: .8rem; } .wide { overflow: visible; }
.pictures { grid-template-columns: 1fr 1fr; } }
"""


@dataclass(frozen=True, eq=False)
class ParityEntry:
    """A precision at the gate.

    Attributes
    ----------
    precision : str
    encoder : str
        File of the graph; empty if none was kept.
    report : mapping
        `ParityReport.to_dict`, perhaps of another version; may hold `batch_position_max_diff` and
        `batch_position_limit`. Empty if the gate was never reached.
    checks : sequence of GoldenCheck
        The golden images' maps and scores; without them there are no pictures.
    kept_fp32 : tuple of str
        Blocks left in fp32.
    refused : str
        Why the bundle goes without this precision; empty if it has it.
    facts : mapping
        How it was built, any JSON. `repair`, `share_fp32` and `speed` get sections of their own.
    """

    precision: str
    encoder: str
    report: Mapping[str, Any]
    checks: Sequence[GoldenCheck] = ()
    kept_fp32: tuple[str, ...] = ()
    refused: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it was judged, left no limit, and was not refused for another reason."""
        return not self.refused and bool(self.report.get("passed"))


@dataclass(frozen=True)
class _Quantity:
    """A number of the report, the name of its limit, and how both are printed."""

    label: str
    key: str
    limit: str
    form: str = ".1e"
    at_least: bool = False

    def cells(self, value: float | None, limit: float | None) -> list[str]:
        """Return value, limit, and whether the one holds the other."""
        if limit is None:
            return [_number(value, self.form), "-", '<span class="muted">no limit</span>']
        holds = value is not None and (value >= limit if self.at_least else value <= limit)
        bound = f"{'≥' if self.at_least else '≤'} {_number(limit, self.form)}"
        return [_number(value, self.form), bound, _mark(holds)]


_QUANTITIES = (
    _Quantity("anomaly map, largest difference", "map_max_diff", "anomaly_map"),
    _Quantity("anomaly map, share of the way to its threshold", "map_shift", "map_shift", ".2%"),
    _Quantity("score, largest difference", "score_max_diff", "score"),
    _Quantity("score, share of the way to its threshold", "score_shift", "score_shift", ".2%"),
    _Quantity("encoder's map, largest difference", "encoder_map_max_diff", "encoder_map"),
    _Quantity("encoder's score, largest difference", "encoder_score_max_diff", "score"),
    _Quantity("scores, rank correlation", "rank_correlation", "rank_correlation", ".4f", True),
    _Quantity("image AUROC, difference", "auroc_diff", "auroc", ".4f"),
    _Quantity("verdicts that flip", "verdict_flips", "verdict_flips", "d"),
    _Quantity("answers, change with the batch", "batch_position_max_diff", "batch"),
)
_FEATURES = _Quantity("", "feature_max_diff", "features")
_COSINE = _Quantity("", "feature_mean_cosine", "cosine", ".6f", at_least=True)


def write_parity_page(path: Path, title: str, entries: Sequence[ParityEntry]) -> None:
    """Write the page; it appears complete or not at all.

    Parameters
    ----------
    path : Path
    title : str
    entries : sequence of ParityEntry
        In the order of the page.

    Raises
    ------
    StorageError
        If the page cannot be written.
    """
    body = "".join(_section(index, entry) for index, entry in enumerate(entries))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)} - cff-edge</title><style>{_STYLE}</style>"
        f"<body><h1>{html.escape(title)}</h1>{_overview(entries)}{body}</body></html>"
    )
    atomic_write(path, page.encode())


def _overview(entries: Sequence[ParityEntry]) -> str:
    keys = ("map_shift", "score_shift", "auroc_diff", "verdict_flips")
    quantities = [quantity for quantity in _QUANTITIES if quantity.key in keys]
    rows = []
    for index, entry in enumerate(entries):
        told = entry.report
        values = [_number(told[q.key], q.form) if q.key in told else "-" for q in quantities]
        link = f'<a href="#p{index}">{html.escape(entry.precision)}</a>'
        first = (link, _state(entry), html.escape(entry.encoder) or "-")
        rows.append([*first, *values, str(len(entry.kept_fp32))])
    names = ("precision", "gate", "encoder", "map moves", "score moves", "AUROC differs")
    return (
        '<p class="muted">The golden images through each precision, against PyTorch in fp32. Moves '
        "are shares of the way from a good part's median to the threshold: 100% would reject a "
        "typical good part.</p>"
        + _table("lllrrrrr", (*names, "verdict flips", "blocks in fp32"), rows)
    )


def _section(index: int, entry: ParityEntry) -> str:
    parts = [f'<h2 id="p{index}">{html.escape(entry.precision)}: {_state(entry)}</h2>']
    if entry.refused:
        parts.append(f'<p class="warning">Refused: {html.escape(entry.refused)}</p>')
    if entry.report:
        told = (html.escape(f) for f in entry.report.get("failures", ()) if f not in entry.refused)
        parts += [f'<p class="warning">{failure}</p>' for failure in told]
        parts += [_quantities(entry.report), _stages(entry.report), _verdicts(entry)]
    else:
        parts.append("<p>The gate was not reached: nothing was measured.</p>")
    return "".join([*parts, _kept(entry), _facts(entry), _pictures(entry)])


def _state(entry: ParityEntry) -> str:
    if entry.passed:
        return '<span class="good">passed</span>'
    return f'<span class="bad">{"refused" if entry.refused else "outside its limits"}</span>'


def _quantities(report: Mapping[str, Any]) -> str:
    limits = {**report.get("limits", {}), "batch": report.get("batch_position_limit")}
    rows = [
        [quantity.label, *quantity.cells(report[quantity.key], limits.get(quantity.limit))]
        for quantity in _QUANTITIES
        if quantity.key in report  # a graph of batch 1 has no batch to change with
    ]
    equal = bool(report.get("resize_equal"))
    rows.append(["resize, equal to the last bit", "yes" if equal else "no", "yes", _mark(equal)])
    return f"<h3>Quantities</h3>{_table('lrrl', ('quantity', 'value', 'limit', ''), rows)}"


def _stages(report: Mapping[str, Any]) -> str:
    limits = report.get("limits", {})
    keys = (_FEATURES.key, _COSINE.key, "feature_min_cosine")
    stages = enumerate(zip(*(report.get(key, ()) for key in keys), strict=False))
    rows = [
        [
            str(stage),
            *_FEATURES.cells(diff, limits.get("features")),
            *_COSINE.cells(mean, limits.get("cosine")),
            _number(smallest, ".6f"),
        ]
        for stage, (diff, mean, smallest) in stages
    ]
    names = ("stage", "largest difference", "limit", "", "mean cosine", "limit", "")
    table = _table("lrrlrrlr", (*names, "smallest cosine"), rows)
    return f"<h3>Features, stage by stage</h3>{table}"


def _verdicts(entry: ParityEntry) -> str:
    """Tell each image's scores and, where the maps are at hand, its side of the threshold."""
    flipped = entry.report.get("flipped", ())
    if not entry.checks:
        pairs = zip(*(entry.report.get(k, ()) for k in ("expected_scores", "scores")), strict=False)
        rows = [[str(index), *_scores(*pair)] for index, pair in enumerate(pairs)]
        header = ("golden image", "expected score", "score", "difference")
        told = f"<p>Flipped: {html.escape(', '.join(flipped))}.</p>" if flipped else ""
        return f"<h3>Scores</h3>{_table('lrrr', header, rows)}{told}"
    rows = []
    for check in entry.checks:
        is_same, verdict = check.name not in flipped, check.result.verdict
        other = "pass" if verdict == "reject" else "reject"
        rows.append(
            [
                *(html.escape(check.name), _ROLES.get(check.role, "-")),
                *_scores(check.expected_score, check.result.score),
                _number(check.result.threshold, ".4f"),
                *(verdict if is_same else other, verdict, _mark(is_same, "same", "flipped")),
            ]
        )
    names = ("image", "part", "expected score", "score", "difference", "threshold")
    return (
        "<h3>Verdicts</h3>"
        + _table("llrrrrlll", (*names, "expected verdict", "verdict", ""), rows)
        + '<p class="muted">A score above the threshold is a reject. A precision sets its own '
        "threshold, from its own scores of the references, as it will on a box; the expected "
        "verdict is that of the expected score at the threshold of fp32.</p>"
    )


def _scores(expected: float | None, score: float | None) -> list[str]:
    change = None if expected is None or score is None else score - expected
    return [_number(expected, ".4f"), _number(score, ".4f"), _number(change, "+.1e")]


def _kept(entry: ParityEntry) -> str:
    repair = {name: entry.facts[name] for name in _REPAIR_FACTS if entry.facts.get(name)}
    if not (entry.kept_fp32 or "repair" in repair):
        return ""
    names = ", ".join(f"<code>{html.escape(name)}</code>" for name in entry.kept_fp32)
    return f"<h3>Blocks kept in fp32</h3><p>{names or 'None.'}</p>{_render(repair)}"


def _facts(entry: ParityEntry) -> str:
    own = ("speed", *_REPAIR_FACTS)
    others = {name: value for name, value in entry.facts.items() if name not in own}
    return "".join(
        f"<h3>{title}</h3>{_render(facts)}"
        for title, facts in (("Speed", entry.facts.get("speed")), ("How it was built", others))
        if facts
    )


def _render(value: Any) -> str:
    """Render JSON of any shape; mappings with a key in common become a table, a row for each."""
    if isinstance(value, Mapping):
        if _are_records(value.values()):
            return _records({html.escape(str(key)): entry for key, entry in value.items()})
        rows = [[_name(key), _render(entry)] for key, entry in value.items()]
        return _table("ll", (), rows) if rows else "none"
    if isinstance(value, list | tuple):
        if _are_records(value):
            return _records({str(index): entry for index, entry in enumerate(value, 1)})
        return ", ".join(map(_render, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _are_records(values: Collection[Any]) -> bool:
    several = len(values) > 1 and all(isinstance(value, Mapping) for value in values)
    return several and bool(set.intersection(*map(set, values)))


def _records(records: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for record in records.values() for key in record))
    rows = [
        [name, *(_render(record[key]) if key in record else "" for key in columns)]
        for name, record in records.items()
    ]
    return _table("l" * (len(columns) + 1), ("", *map(_name, columns)), rows)


def _name(key: Any) -> str:
    return html.escape(str(key).replace("_", " "))


def _table(columns: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of HTML cells; `columns` has ``l`` or ``r`` for each, as in LaTeX."""

    def row(tag: str, cells: Sequence[str]) -> str:
        kinds = (" class=number" if column == "r" else "" for column in columns)
        inside = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    head = f"<thead>{row('th', header)}</thead>" if header else ""
    body = "".join(row("td", cells) for cells in rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _number(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:{form}}" if value else "0"


def _mark(holds: bool, good: str = "holds", bad: str = "outside") -> str:
    return f'<span class="good">✓ {good}</span>' if holds else f'<span class="bad">✗ {bad}</span>'


def _pictures(entry: ParityEntry) -> str:
    """Show every image's maps beside each other, all images on one colour scale."""
    checks = [c for c in entry.checks if c.expected_map.ndim == 2 and c.expected_map.size]
    if not checks:
        return ""
    values = np.concatenate([c.expected_map[np.isfinite(c.expected_map)] for c in checks])
    low, high = np.quantile(values, (0.5, _HIGH_QUANTILE)).tolist() if values.size else (0.0, 1.0)
    top, meaning = _difference_scale(entry.report, high - low)
    figures = "".join(_figure(check, entry.precision, (low, high), top) for check in checks)
    ramp = _png(np.linspace(0.0, 1.0, 128, dtype=np.float32)[None], (0.0, 1.0))
    bar = f'<img alt="colour scale from dark to bright" src="{ramp}">'
    return (
        f'<h3>Maps</h3><p class="scale">Maps: {low:.4g}{bar}{high:.4g}, from the median of all '
        f"expected maps to their 99.5th percentile, for all images.<br>Absolute differences: "
        f'0{bar}{top:.2g}, {meaning}.</p><div class="pictures">{figures}</div>'
    )


def _difference_scale(report: Mapping[str, Any], span: float) -> tuple[float, str]:
    """Return the difference that is drawn brightest, and what it is: the limit, if there is one."""
    limits = report.get("limits", {})
    bounds = [limits.get("anomaly_map")]
    if limits.get("map_shift") and report.get("map_max_diff") and report.get("map_shift"):
        bounds.append(limits["map_shift"] * report["map_max_diff"] / report["map_shift"])
    if top := min(filter(None, bounds), default=0.0):
        return top, "the limit of this precision"
    return max(span, 1e-6) / 10, "a tenth of the scale of the maps"


def _figure(check: GoldenCheck, precision: str, scale: tuple[float, float], top: float) -> str:
    expected, got = check.expected_map, check.result.anomaly_map
    pictures = [("expected", _png(expected, scale)), (precision, _png(got, scale))]
    caption = f"{check.name}, {_ROLES.get(check.role, '-')}"
    if got.shape == expected.shape:
        with np.errstate(invalid="ignore"):
            difference = np.abs(got - expected)
        pictures.append(("difference", _png(difference, (0.0, top))))
        caption += f": largest difference {_number(float(difference.max()), '.1e')}"
    else:
        caption += f": expected {expected.shape}, got {got.shape}"
    images = "".join(
        f'<div><img alt="{html.escape(name)} map" src="{data}">{html.escape(name)}</div>'
        for name, data in pictures
    )
    return f"<figure><figcaption>{html.escape(caption)}</figcaption><div>{images}</div></figure>"


def _png(values: NDArray[np.float32], scale: tuple[float, float]) -> str:
    """Colour a map [H,W] on a scale, small; return a data URL. NaN is brightest."""
    low, high = scale
    finite = np.nan_to_num(values.astype(np.float32), nan=high, posinf=high, neginf=low)
    shrink = min(1.0, _SIDE_PX / max(values.shape))
    height, width = (max(1, round(side * shrink)) for side in values.shape)
    small = cv2.resize(finite, (width, height), interpolation=cv2.INTER_AREA)
    levels = np.clip((small - low) / max(high - low, 1e-12), 0.0, 1.0) * 255
    picture = Image.fromarray(np.rint(levels).astype(np.uint8))
    # a palette costs a third of the bytes of three channels
    ramp = np.linspace(0.0, 1.0, 256, dtype=np.float32)[None]
    picture.putpalette(heat_map(ramp, (0.0, 1.0)).tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
