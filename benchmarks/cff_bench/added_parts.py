"""What `add-normals` does to parts like the added ones, and to defects, on real parts.

Run as ``python -m cff_bench.added_parts BUNDLE DATA --out docs/added_parts.md``. Good parts are
photographed anew, as it were: turned by a quarter, or through another lens and under another lamp.
A profile of four references of the old kind inspects them; two of those that it rejects are added;
what it says of the others, and of defective parts photographed alike, is counted before and after.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cff_runtime import Inspector, Profile
from cff_runtime.imaging import list_images, load_image

Picture = NDArray[np.uint8]
PRODUCTS = (
    "mvtec_mini/bottle",
    "mvtec_mini/hazelnut",
    "mvtec_mini/metal_nut",
    "mvtec_mini/transistor",
    "hazelnut_toy/hazelnut",
    "fabric_hsst/fabric",
    "ballscrew/ballscrew",
    "piped/paper_bdp01_tl",
    "piped/paper_zpb01_rl",
)
_N_ADDED, _N_PARTS = 2, 12


def turned(image: Picture) -> Picture:
    """Return an image turned by a quarter."""
    return np.ascontiguousarray(np.rot90(image))


def other_camera(image: Picture) -> Picture:
    """Return an image a little softer, darker and bluer."""
    soft = cv2.GaussianBlur(image, (0, 0), image.shape[1] / 256)
    return (soft * np.array([0.6, 0.7, 0.9])).astype(np.uint8)


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "turned by a quarter": turned,
    "another lens and lamp": other_camera,
}


def measure(
    inspector: Inspector, folder: Path, change: Callable[[Picture], Picture]
) -> dict[str, int]:
    """Count what is rejected before and after two rejected good parts are added."""
    profile = inspector.enroll(list_images([folder / "train/good"])[:4], folder.name)
    good = [change(load_image(file)) for file in list_images([folder / "test/good"])[:_N_PARTS]]
    places = [place for place in sorted((folder / "test").iterdir()) if place.name != "good"]
    files = [file for place in places for file in list_images([place])]
    defects = [change(load_image(file)) for file in files[:: max(1, len(files) // 8)][:8]]
    before = [_rejected(inspector, part, profile) for part in good]
    added = [index for index, rejected in enumerate(before) if rejected][:_N_ADDED]
    extended = inspector.add_normals(profile, [good[i] for i in added]) if added else profile
    others = [index for index in range(len(good)) if index not in added]
    after = {index: _rejected(inspector, good[index], extended) for index in others}
    return {
        "added": len(added),
        "others": len(others),
        "rejected_before": sum(before[index] for index in others),
        "still_rejected": sum(before[index] and after[index] for index in others),
        "newly_rejected": sum(not before[index] and after[index] for index in others),
        "defects": len(defects),
        "missed_before": sum(not _rejected(inspector, part, profile) for part in defects),
        "missed_after": sum(not _rejected(inspector, part, extended) for part in defects),
    }


def _rejected(inspector: Inspector, part: Picture, profile: Profile) -> bool:
    return inspector.inspect(part, profile).verdict == "reject"


def to_markdown(results: dict[str, dict[str, dict[str, int]]]) -> str:
    """Return the page."""
    lines = [
        "# Adding parts that were wrongly rejected",
        "",
        "Made by `python -m cff_bench.added_parts BUNDLE DATA --out docs/added_parts.md`; its "
        "figures are in `docs/results/added_parts.json`. EfficientNet-Lite0 at 256 px, four "
        "references; of the good parts photographed otherwise, up to two that were rejected are "
        "added with `cff-run add-normals`.",
        "",
        "Most of the others, their like, pass then, and none that passed is rejected. The price "
        "stands in the last columns: the references now differ more among themselves, so the "
        "threshold rises and more defects pass.",
        "",
    ]
    for name, products in results.items():
        lines += [
            f"## {name[0].upper()}{name[1:]}",
            "",
            "| product | added | other good parts rejected before | of them still | newly rejected "
            "| defects missed before | after |",
            "|---|---|---|---|---|---|---|",
        ]
        total = {
            key: sum(row[key] for row in products.values()) for key in next(iter(products.values()))
        }
        for product, row in {**products, "**all**": total}.items():
            lines.append(
                f"| {product} | {row['added']} | {row['rejected_before']} of {row['others']} "
                f"| {row['still_rejected']} | {row['newly_rejected']} "
                f"| {row['missed_before']} of {row['defects']} | {row['missed_after']} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE")
    arguments = parser.parse_args(argv)
    inspector = Inspector.open(arguments.bundle, options={"threads": 1})
    results = {
        name: {
            product: measure(inspector, arguments.data / product, change) for product in PRODUCTS
        }
        for name, change in CHANGES.items()
    }
    figures = arguments.out.parent / "results" / "added_parts.json"
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    arguments.out.write_text(to_markdown(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
