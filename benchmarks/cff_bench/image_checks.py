"""How often the checks of reference images are right, on real parts.

Run as ``python -m cff_bench.image_checks BUNDLE DATA --out docs/image_checks.md``. DATA holds sets
in the layout of MVTec AD. Rates are means over products, so that no large one decides.
"""

import argparse
import io
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_runtime import Bundle, Inspector
from cff_runtime.backends import open_backend
from cff_runtime.image_checks import check_references
from cff_runtime.imaging import list_images, load_image
from cff_runtime.product_check import mean_features, product_distance, product_limit
from cff_runtime.verification import golden_condition

_N_TRAIN, _N_GOOD, _N_BAD = 16, 12, 10
_KINDS = ("blurred", "duplicate", "outlier", "wrong product", "wrong size")

Means = list[NDArray[np.float32]]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Product:
    """Mean features of a product's images, and the files of some."""

    name: str
    train: list[Means]
    good: list[Means]
    bad: list[Means]
    train_files: list[Path]
    bad_files: list[Path]


def load_products(inspector: Inspector, data: Path) -> list[Product]:
    """Encode the first images, in a fixed random order, of every product under a folder."""
    folders = sorted(
        folder.parent.parent for folder in data.glob("*/*/train/good") if folder.is_dir()
    )
    return [_load_product(inspector, folder) for folder in folders]


def _load_product(inspector: Inspector, folder: Path) -> Product:
    generator = random.Random(0)

    def some(places: Sequence[Path], n: int) -> list[Path]:
        files = [file for place in places for file in list_images([place])]
        generator.shuffle(files)
        return files[:n]

    defects = [place for place in sorted((folder / "test").iterdir()) if place.name != "good"]
    train = some([folder / "train/good"], _N_TRAIN)
    good = some([folder / "test/good"], _N_GOOD)
    bad = some(defects, _N_BAD)
    return Product(
        name=f"{folder.parent.name}/{folder.name}",
        train=[_means(inspector, file) for file in train],
        good=[_means(inspector, file) for file in good],
        bad=[_means(inspector, file) for file in bad],
        train_files=train,
        bad_files=bad,
    )


def _means(inspector: Inspector, file: Path) -> Means:
    backend, bundle = inspector._backend, inspector.bundle
    condition = golden_condition(bundle)
    encoding = backend.encode(bundle.manifest.preprocessing(load_image(file)), condition)
    return mean_features([backend.download(handle) for handle in encoding.features])


def _stack(images: Sequence[Means]) -> Means:
    return [np.stack(rows) for rows in zip(*images, strict=True)]


def product_rates(products: Sequence[Product], n_references: int) -> dict[str, object]:
    """Return false alarms and misses of the product check with K references.

    Every full draw of K from the training images counts. ``kin`` are pairs of products of one set
    of textures (twelve papers, three boards cut at random), ``strangers`` all others.
    """
    alarms: dict[str, list[float]] = {"good": [], "bad": []}
    flagged: dict[str, list[float]] = {"strangers": [], "kin": []}
    unseen: list[str] = []
    for product in products:
        starts = range(0, len(product.train) - n_references + 1, max(n_references, 4))
        draws = [_stack(product.train[start : start + n_references]) for start in starts]
        for kind in alarms:
            images = getattr(product, kind)
            alarms[kind].append(float(np.mean([_flagged(images, draw) for draw in draws])))
        for other in products:
            if other is product:
                continue
            share = float(np.mean([_flagged(other.good + other.bad, draw) for draw in draws]))
            flagged["kin" if _are_kin(product, other) else "strangers"].append(share)
            if share < 0.5:
                unseen.append(f"{other.name} with the profile of {product.name}: {share:.0%}")
    return {
        "n_references": n_references,
        "false_alarms_good": float(np.mean(alarms["good"])),
        "false_alarms_defective": float(np.mean(alarms["bad"])),
        "strangers_flagged": float(np.mean(flagged["strangers"])),
        "stranger_pairs": len(flagged["strangers"]),
        "stranger_pairs_flagged": sum(share >= 0.5 for share in flagged["strangers"]),
        "lowest_stranger_pair": min(flagged["strangers"]),
        "kin_flagged": float(np.mean(flagged["kin"])),
        "kin_pairs": len(flagged["kin"]),
        "kin_pairs_flagged": sum(share >= 0.5 for share in flagged["kin"]),
        "unseen": unseen,
    }


def _flagged(images: Sequence[Means], references: Means) -> list[bool]:
    limit = product_limit(references)
    return [product_distance(image, references) > limit for image in images]


def _are_kin(one: Product, other: Product) -> bool:
    family = one.name.partition("/")[0]
    return family in ("piped", "deeppcb") and other.name.startswith(f"{family}/")


def planted_rates(inspector: Inspector, products: Sequence[Product]) -> dict[str, dict[str, float]]:
    """Return, for 4 references of each product, how often each check speaks.

    Once all four are good; then the fourth is blurred, saved again as JPEG, defective, of another
    product or cropped.
    """
    changes: dict[str, Callable[[int, list[Picture]], Picture]] = {
        "all good": lambda _, parts: parts[3],
        "blurred, 1.5 px of 256": lambda _, parts: _blur(parts[3], 1.5),
        "blurred, 2 px of 256": lambda _, parts: _blur(parts[3], 2.0),
        "the first again, JPEG quality 80": lambda _, parts: _as_jpeg(parts[0]),
        "defective": lambda index, _: load_image(products[index].bad_files[0]),
        "another product": lambda index, _: load_image(products[index - 4].train_files[0]),
        "cropped by a tenth": lambda _, parts: parts[3][:, : parts[3].shape[1] * 9 // 10].copy(),
    }
    rates = {}
    for name, change in changes.items():
        counts = dict.fromkeys(_KINDS, 0)
        for index, product in enumerate(products):
            parts = [load_image(file) for file in product.train_files[:4]]
            profile = inspector.enroll([*parts[:3], change(index, parts)], product.name)
            kinds = {warning.kind for warning in check_references(profile) if warning.number == 4}
            for kind in kinds:
                counts[kind] += 1
        rates[name] = {kind: count / len(products) for kind, count in counts.items()}
    return rates


def _blur(image: Picture, sigma_px: float) -> Picture:
    sigma = sigma_px * max(image.shape[:2]) / 256
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def _as_jpeg(image: Picture) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "jpeg", quality=80)
    return np.asarray(Image.open(stream))


def to_markdown(
    rows: Sequence[dict[str, object]], planted: dict[str, dict[str, float]], n_products: int
) -> str:
    """Return the page."""
    lines = [
        "# Checks of images",
        "",
        "Made by `python -m cff_bench.image_checks BUNDLE DATA --out docs/image_checks.md`; its "
        f"figures are in `docs/results/image_checks.json`. {n_products} products of six sets, "
        "EfficientNet-Lite0 at 256 px. Rates are means over products.",
        "",
        "## Is it this product?",
        "",
        "`strangers` are products of different kinds, such as a bottle with the profile of a nut. "
        "`kin` are the twelve papers of one set among themselves and the three boards of another, "
        "cut at random: nearly alike as a whole, and often not told apart. A pair "
        "counts as flagged if at least half of the product's images are.",
        "",
        "| K | false alarms, good parts | false alarms, defective parts "
        "| strangers flagged, images | pairs | lowest pair | kin flagged, images | pairs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['n_references']} | {row['false_alarms_good']:.1%} "
            f"| {row['false_alarms_defective']:.1%} | {row['strangers_flagged']:.2%} "
            f"| {row['stranger_pairs_flagged']} of {row['stranger_pairs']} "
            f"| {row['lowest_stranger_pair']:.0%} "
            f"| {row['kin_flagged']:.0%} | {row['kin_pairs_flagged']} of {row['kin_pairs']} |"
        )
    lines += [
        "",
        "## Four references, the fourth of them changed",
        "",
        "Share of the products whose fourth reference got the warning; the first row are false "
        "alarms.",
        "",
        f"| fourth reference | {' | '.join(_KINDS)} |",
        "|---|" + "---|" * len(_KINDS),
    ]
    for name, rates in planted.items():
        lines.append(f"| {name} | {' | '.join(f'{rates[kind]:.0%}' for kind in _KINDS)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE")
    arguments = parser.parse_args(argv)
    bundle = Bundle.open(arguments.bundle)
    inspector = Inspector(bundle, open_backend("onnxruntime", bundle, {"threads": 1}))
    products = load_products(inspector, arguments.data)
    rows = [product_rates(products, n_references) for n_references in (1, 2, 4)]
    planted = planted_rates(inspector, products)
    results = arguments.out.parent / "results" / "image_checks.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    facts = {"products": [product.name for product in products], "check": rows, "planted": planted}
    results.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    arguments.out.write_text(to_markdown(rows, planted, len(products)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
