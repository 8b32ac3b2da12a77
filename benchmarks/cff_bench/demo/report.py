"""The demo's report: one self-contained HTML page that shows what was found and what was missed."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_bench.demo.evaluation import Inspection, Summary
from cff_edge.datasets import load_mask
from cff_runtime.imaging import load_image
from cff_runtime.manifest import Manifest
from cff_runtime.storage import atomic_write

_PER_GROUP = 8
_TILE_PX = 224

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2e7d32; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --good: #81c784; --bad: #ef7370; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto;
padding: 0 1rem; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; } h4 { margin: 0 0 .6rem; }
.muted { opacity: .75; } .wrong { color: var(--bad); } .right { color: var(--good); }
.note { border-left: 4px solid #f9a825; padding: .4rem .9rem; background: #f9a8251a; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; min-width: 7.5rem; }
.card b { display: block; font-size: 1.5rem; }
.pair, .parts { display: grid; gap: 1rem; align-items: start;
grid-template-columns: repeat(auto-fill, minmax(min(460px, 100%), 1fr)); }
.pair section { min-width: 0; } .pair .alone { grid-column: 1 / -1; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem; }
figure div { display: flex; gap: 4px; align-items: start; } figure img { width: calc(50% - 2px); }
figcaption { font-size: .85rem; padding-top: .3rem; }
table { border-collapse: collapse; } td { border-bottom: 1px solid var(--line);
padding: .25rem .9rem .25rem 0; text-align: left; }
td.number { font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } svg { min-width: 600px; width: 100%; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
"""


def write_report(
    path: Path,
    summary: Summary,
    inspections: Sequence[Inspection],
    enrolled: dict[str, Any],
    manifest: Manifest,
    is_synthetic: bool,
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
    summary : Summary
    inspections : sequence of Inspection
        All test parts; the most telling of each kind are shown.
    enrolled : dict
        What ``cff-run enroll --json`` printed.
    manifest : Manifest
    is_synthetic : bool
        Whether the defects were drawn; the page says so.
    """
    sections = [
        _head(summary, enrolled, manifest, is_synthetic),
        _scores(inspections, summary.threshold),
        _gallery(inspections),
        _details(summary, enrolled, manifest),
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(summary.product)} - cff-edge</title><style>{_STYLE}</style>"
        f"<body>{''.join(sections)}</body></html>"
    )
    atomic_write(path, page.encode())


def _head(
    summary: Summary, enrolled: dict[str, Any], manifest: Manifest, is_synthetic: bool
) -> str:
    cards = [
        ("image AUROC", f"{summary.image_auroc:.3f}"),
        ("pixel AUROC", f"{summary.pixel_auroc:.3f}"),
        ("pixel AP", f"{summary.pixel_ap:.3f}"),
        ("false rejects", f"{summary.false_reject_rate:.0%}"),
        ("false accepts", f"{summary.false_accept_rate:.0%}"),
        ("p50, this CPU", f"{summary.p50_ms:.1f} ms"),
    ]
    boxes = "".join(f'<div class="card">{name}<b>{value}</b></div>' for name, value in cards)
    trained = ", ".join(str(name) for name in manifest.head["trained_on"])
    note = (
        '<p class="note"><b>Synthetic data.</b> The parts are cut from photographs and their '
        "defects are drawn (scratches, stains, holes, pasted patches). The figures show that the "
        "path works; they say nothing about a real product.</p>"
        if is_synthetic
        else ""
    )
    return (
        f"<h1>{html.escape(summary.product)}</h1>"
        f'<p class="muted">enrolled from {summary.k} good parts, {summary.n_test_images} parts '
        f"inspected; the head was trained on {html.escape(trained)}, never on this product</p>"
        f'{note}<div class="cards">{boxes}</div>'
        f"<p>Threshold {summary.threshold:.4f}, from good parts only: "
        f"{html.escape(enrolled['threshold']['statement'])}.</p>"
    )


def _scores(inspections: Sequence[Inspection], threshold: float) -> str:
    """Draw every part's score as a dot, good above defective, with the threshold."""
    scores = [item.record["score"] for item in inspections]
    low, high = min(*scores, threshold), max(*scores, threshold)
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return 110 + 800 * (value - low) / span

    marks = []
    for row, (label, defective, colour) in enumerate(
        (("good", False, "var(--good)"), ("defective", True, "var(--bad)"))
    ):
        y = 28 + 34 * row
        marks.append(f'<text x="0" y="{y + 4}">{label}</text>')
        marks += [
            f'<circle cx="{x(item.record["score"]):.1f}" cy="{y}" r="5" fill="{colour}" '
            f'fill-opacity=".55"><title>{html.escape(item.sample.path.name)}: '
            f"{item.record['score']:.4f}</title></circle>"
            for item in inspections
            if item.sample.is_defective == defective
        ]
    line = x(threshold)
    marks.append(
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="8" y2="82" stroke="currentColor" '
        f'stroke-dasharray="4 3"/><text x="{line:.1f}" y="98" text-anchor="middle">'
        f"threshold {threshold:.3f}</text>"
    )
    return (
        "<h2>Scores</h2><p class='muted'>Left of the line passes, right of it is rejected.</p>"
        f'<div class="wide"><svg viewBox="0 0 970 104" role="img" aria-label="scores">'
        f"{''.join(marks)}</svg></div>"
    )


def _gallery(inspections: Sequence[Inspection]) -> str:
    """Show wrong and right verdicts side by side, the nearest to the threshold first."""
    parts = [
        "<h2>Parts</h2><p class='muted'>Left the part, with the true defect outlined; right "
        "the heat map on the profile's fixed colour scale, regions boxed.</p>"
    ]
    for title, defective, wrong, right in (
        ("Defective parts", True, "passed", "rejected"),
        ("Good parts", False, "rejected", "passed"),
    ):
        members = [item for item in inspections if item.sample.is_defective == defective]
        members.sort(key=lambda item: abs(item.record["score"] - item.record["threshold"]))
        groups = [[item for item in members if item.is_right == kind] for kind in (False, True)]
        alone = not all(groups)
        parts += [
            f'<h3>{title}</h3><div class="pair">',
            _group("wrong", wrong, groups[0], alone),
            _group("right", right, groups[1], alone),
            "</div>",
        ]
    return "".join(parts)


def _group(kind: str, verdict: str, members: Sequence[Inspection], alone: bool) -> str:
    shown = members[:_PER_GROUP]
    count = f"{len(members)}" + (f", {len(shown)} shown" if len(shown) < len(members) else "")
    figures = "".join(_figure(item) for item in shown)
    return (
        f"<section{' class=alone' if alone else ''}>"
        f'<h4 class="{kind}">{kind.capitalize()}: {verdict} ({count})</h4>'
        f'<div class="parts">{figures}</div></section>'
    )


def _figure(item: Inspection) -> str:
    image = load_image(item.sample.path)
    size = _tile_size(image)
    part = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if item.sample.is_defective:
        mask = load_mask(item.sample, size[1], size[0]).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(part, outlines, -1, (0, 230, 255), 2)
    overlay = load_image(item.overlay)
    pictures = (np.asarray(part, np.uint8), overlay)
    record = item.record
    caption = (
        f"{html.escape(item.sample.defect)} / {html.escape(item.sample.path.name)}: "
        f"<b>{record['verdict']}</b>, score {record['score']:.4f}, regions {len(record['regions'])}"
    )
    images = "".join(
        f'<img alt="{alt}" src="{_data_url(picture)}">'
        for alt, picture in zip(("part", "heat map"), pictures, strict=True)
    )
    return f"<figure><div>{images}</div><figcaption>{caption}</figcaption></figure>"


def _details(summary: Summary, enrolled: dict[str, Any], manifest: Manifest) -> str:
    rows = [
        *((f"{stage}, ms", f"{ms:.2f}") for stage, ms in summary.stages_ms.items()),
        ("total, ms (median)", f"{summary.p50_ms:.2f}"),
        ("calibrator", summary.calibrator),
        ("backbone", f"{manifest.backbone['name']} ({manifest.backbone['weights']} weights)"),
        ("precision", manifest.precision),
        ("memory bank, rows", ", ".join(str(rows) for rows in enrolled["bank_rows"])),
        ("parity, features", f"{max(manifest.parity['feature_max_diff']):.1e}"),
        ("bundle", f"{summary.bundle} ({manifest.id[:12]})"),
        ("profile", summary.profile),
    ]
    cells = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<h2>Details</h2><table>{cells}</table>"


def _data_url(image: NDArray[np.uint8]) -> str:
    small = cv2.resize(image, _tile_size(image), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _tile_size(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the width and height at which a picture is embedded, twice that of its tile."""
    height, width = image.shape[:2]
    return _TILE_PX * 2, max(1, round(_TILE_PX * 2 * height / width))
