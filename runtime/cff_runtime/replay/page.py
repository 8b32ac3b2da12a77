"""The page of a replay: counts, a scatter, every changed verdict, pictures; one file, no script."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cff_runtime.replay.pictures import RAMP_SHAPE, Shelf, Triptych, draw_ramp
from cff_runtime.replay.rescoring import Judgement, Rescored
from cff_runtime.replay.scatter import draw_scatter
from cff_runtime.replay.tally import Tally, used_verdicts
from cff_runtime.storage import atomic_write

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e7d32; --bad: #c62828;
--moved: #d55e00; --same: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --good: #81c784; --bad: #ef7370;
--moved: #ff9d4d; --same: #64b5f6; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto;
padding: 0 1rem; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin: 2.4rem 0 .3rem; padding-top: .6rem;
border-top: 1px solid var(--line); } p { margin: .4rem 0; max-width: 62rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.muted { opacity: .75; font-size: .92rem; } .lead { font-size: 1.1rem; }
.warning { border-left: 4px solid var(--bad); padding: .4rem .9rem; background: #c628281a; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: flex-start; }
.beside > div { flex: 1 1 20rem; } .beside > figure { flex: 1 1 26rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem 1.2rem .2rem 0; text-align: left;
vertical-align: top; overflow-wrap: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.path { overflow-wrap: anywhere; min-width: 14rem; }
svg { width: 100%; max-width: 500px; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg .grid { stroke: var(--line); } svg .diagonal { stroke-dasharray: 3 4; }
svg .limit { stroke: currentColor; stroke-width: 1.5; } svg .corner { opacity: .75; }
svg .same { fill: var(--same); fill-opacity: .55; }
svg .moved { fill: var(--moved); stroke: currentColor; stroke-width: .7; }
figure { margin: 0; } figure.part { border: 1px solid var(--line); border-radius: 8px;
padding: .6rem; margin: .8rem 0; break-inside: avoid; }
figcaption { font-size: .92rem; }
.maps { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px; margin-top: .4rem; }
.maps div { font-size: .85rem; font-variant-numeric: tabular-nums; }
.maps img { display: block; width: 100%; height: auto; }
.scale img { width: 160px; height: 10px; margin: 0 .4rem; }
tr { break-inside: avoid; }
@media print { :root { color-scheme: light; } body { margin: 0; padding: 0; max-width: none;
font-size: 11px; } * { print-color-adjust: exact; } .wide { overflow: visible; } }
"""


@dataclass(frozen=True)
class Heading:
    """What the page says of the run itself.

    Attributes
    ----------
    product : str
    facts : mapping of str to (str, str)
        What each side is, by name: old and new.
    """

    product: str
    facts: Mapping[str, tuple[str, str]]


def write_page(path: Path, heading: Heading, tally: Tally, shelf: Shelf) -> None:
    """Write the page; it appears complete or not at all.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    title = f"Replay of {html.escape(heading.product)}"
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title} - cff-edge</title><style>{_STYLE}</style><body><h1>{title}</h1>"
        f"{_summary(tally)}{_sides(heading)}{_scatter(tally)}{_changes(tally)}"
        f"{_pictures(tally, shelf)}{_failures(tally)}</body></html>"
    )
    atomic_write(path, page.encode(errors="backslashreplace"))  # file names need not be valid text


def _summary(tally: Tally) -> str:
    sentence = tally.sentence()
    parts = [f'<p class="lead">{html.escape(sentence[0].upper() + sentence[1:])}.</p>']
    if tally.failures:
        n = len(tally.failures)
        parts.append(
            f'<p class="warning">{n} could not be scored, <a href="#failed">below</a>.</p>'
        )
    return "".join(parts)


def _sides(heading: Heading) -> str:
    rows = [
        [name, html.escape(old), html.escape(new), "" if old == new else "differs"]
        for name, (old, new) in heading.facts.items()
    ]
    return _table("lppl", ("", "old", "new", ""), rows)


def _scatter(tally: Tally) -> str:
    svg, n_drawn = draw_scatter(tally.relative_scores)
    n = len(tally.relative_scores)
    told = f" {n_drawn} of {n} parts are drawn." if n_drawn < n else ""
    verdicts = used_verdicts(tally)
    rows = [[old, *(str(tally.verdicts[old, new]) for new in verdicts)] for old in verdicts]
    matrix = _table("l" + "r" * len(verdicts), ("old \\ new", *verdicts), rows)
    return (
        '<h2>Scores</h2><p class="muted">Scores stand relative to the threshold of their profile: '
        "above 1 is a reject; so two profiles can "
        "be compared.</p>"
        f'<div class="beside"><figure>{svg}<figcaption class="muted">Diamonds: '
        "the verdict changed. Dots: it did not. On the dashed line a score stayed where it was."
        f"{told}</figcaption></figure><div>{matrix}{_known(tally)}"
        f'<p class="muted">Shift of the scores, new less old: median {tally.median_shift():+.3f}, '
        f"largest {tally.largest_shift():.3f}.</p></div></div>"
    )


def _known(tally: Tally) -> str:
    if not tally.known:
        return (
            '<p class="muted">Nothing is known of these parts: <code>--known</code>, or folders '
            "<code>good</code> and defect names beside it, tell which changes are for the "
            "better.</p>"
        )
    old, new = tally.rates(is_new=False), tally.rates(is_new=True)
    labels = {
        "false_rejects": "good parts rejected",
        "missed": "defective parts passed",
        "review": "parts to review",
    }
    rows = [
        [label, f"{old[name]:.1%}", f"{new[name]:.1%}"]
        for name, label in labels.items()
        if name in old
    ]
    n_good = sum(count for (*_, is_good), count in tally.known.items() if is_good)
    n_known = tally.known.total()
    return (
        _table("lrr", ("of what is known", "old", "new"), rows)
        + f'<p class="muted">{n_good} parts are known to be good, {n_known - n_good} to be '
        "defective.</p>"
    )


def _changes(tally: Tally) -> str:
    if not tally.changed:
        return "<h2>Changed verdicts</h2><p>None.</p>"
    rows = [
        [
            html.escape(part.image),
            _known_word(part),
            part.old.verdict,
            part.new.verdict,
            f"{part.old.relative:.3f}",
            f"{part.new.relative:.3f}",
            f"{part.shift:+.3f}",
            _mark(part),
        ]
        for part in tally.by_movement()
    ]
    names = ("image", "known", "old", "new", "old score", "new score", "shift", "")
    return f"<h2>Changed verdicts</h2>{_table('plllrrrl', names, rows)}"


def _pictures(tally: Tally, shelf: Shelf) -> str:
    changed, movers = shelf.pictures(changed=True), shelf.pictures(changed=False)
    if not (changed or movers):
        return ""
    ramp = _image(draw_ramp(), "colour scale from dark to bright")
    n = len(tally.changed)
    told = ""
    if len(changed) < n:
        told = f" Pictures of the {len(changed)} of {n} changed parts that moved furthest."
    parts = [
        '<h2>Pictures</h2><p class="muted">Maps over the part, each on the fixed colour scale of '
        f"its profile, and the regions above its pixel threshold.{told}</p>"
        f'<p class="scale muted">normal{ramp}far above the pixel threshold</p>'
    ]
    parts += [_figure(*pair) for pair in changed]
    if movers:
        parts.append(f"<h2>Same verdict, moved furthest ({len(movers)})</h2>")
        parts += [_figure(*pair) for pair in movers]
    return "".join(parts)


def _figure(part: Rescored, pictures: Triptych) -> str:
    known = f", known to be {_known_word(part)}" if part.is_good is not None else ""
    caption = f"<b>{html.escape(part.image)}</b>{known}: score moved by {part.shift:+.3f}"
    views = (
        ("part", pictures.part, "part"),
        ("old map", pictures.old, f"old: {_told(part.old)}"),
        ("new map", pictures.new, f"new: {_told(part.new)}"),
    )
    images = "".join(f"<div>{_image(data, name)}{text}</div>" for name, data, text in views)
    return (
        f'<figure class="part"><figcaption>{caption} {_mark(part)}</figcaption>'
        f'<div class="maps">{images}</div></figure>'
    )


def _told(judgement: Judgement) -> str:
    return f"{judgement.verdict}, {judgement.relative:.3f} (raw {judgement.score:.4g})"


def _failures(tally: Tally) -> str:
    if not tally.failures:
        return ""
    rows = [[html.escape(f.image), html.escape(f.error)] for f in tally.failures]
    return f'<h2 id="failed">Not scored</h2>{_table("pp", ("image", "why"), rows)}'


def _known_word(part: Rescored) -> str:
    return {None: "", True: "good", False: "defective"}[part.is_good]


def _mark(part: Rescored) -> str:
    if part.is_better is None:
        return ""
    if part.is_better:
        return '<span class="good">✓ better</span>'
    return '<span class="bad">✗ worse</span>'


def _image(data: bytes, name: str) -> str:
    size = f' width="{RAMP_SHAPE[1]}" height="{RAMP_SHAPE[0]}"' if "scale" in name else ""
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{name}"{size} src="data:image/jpeg;base64,{encoded}">'


def _table(columns: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of HTML cells; `columns` has ``l``, ``r`` or ``p`` (a path) for each."""
    kinds = [{"l": "", "r": ' class="number"', "p": ' class="path"'}[kind] for kind in columns]

    def row(tag: str, cells: Sequence[str]) -> str:
        inside = (f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    head = row("th", header)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
