"""Rates of the image checks, on invented features and drawn parts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cff_bench import added_parts, image_checks
from cff_bench.image_checks import Product, product_rates, to_markdown
from cff_runtime import Bundle


def _images(rng: np.random.Generator, centre: NDArray, n: int) -> list[list[NDArray]]:
    rows = centre + 0.001 * rng.normal(size=(n, len(centre)))
    return [[(row / np.linalg.norm(row)).astype(np.float32)] * 4 for row in rows]


def _product(name: str, rng: np.random.Generator, centre: NDArray) -> Product:
    return Product(
        name=name,
        train=_images(rng, centre, 8),
        good=_images(rng, centre, 3),
        bad=_images(rng, centre, 2),
        train_files=[],
        bad_files=[],
    )


def test_rates_count_pairs_of_strangers_and_of_kin() -> None:
    rng = np.random.default_rng(0)
    names = ("piped/one", "piped/two", "nuts/nut")
    centres = np.eye(3, 8)
    centres[1] = centres[0]  # one paper in two folders
    products = [_product(n, rng, c) for n, c in zip(names, centres, strict=True)]

    rates = product_rates(products, 4)

    assert rates["false_alarms_good"] == rates["false_alarms_defective"] == 0.0
    assert rates["strangers_flagged"] == 1.0 and rates["lowest_stranger_pair"] == 1.0
    assert (rates["stranger_pairs_flagged"], rates["stranger_pairs"]) == (4, 4)
    assert (rates["kin_pairs_flagged"], rates["kin_pairs"]) == (0, 2)
    assert rates["unseen"] == [
        "piped/two with the profile of piped/one: 0%",
        "piped/one with the profile of piped/two: 0%",
    ]
    page = to_markdown([rates], {"all good": dict.fromkeys(image_checks._KINDS, 0.0)}, 3)
    assert "| 4 | 0.0% | 0.0% | 100.00% | 4 of 4 | 100% | 0% | 0 of 2 |" in page
    assert "| all good | 0% | 0% | 0% | 0% | 0% |" in page


@pytest.fixture
def drawn_data(draw_part: Callable[..., NDArray[np.uint8]], tmp_path: Path) -> Path:
    for seed, place in enumerate(["train/good"] * 4 + ["test/good"] * 3 + ["test/bar"]):
        folder = tmp_path / "data" / "rings" / "ring" / place
        folder.mkdir(parents=True, exist_ok=True)
        part = draw_part(seed, defective=place == "test/bar")
        Image.fromarray(part).save(folder / f"{seed}.png")
    return tmp_path / "data"


def test_added_parts_are_measured_and_written(
    drawn_data: Path, lite_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(added_parts, "PRODUCTS", ("rings/ring",))
    page = tmp_path / "docs" / "added_parts.md"

    assert added_parts.main([str(lite_bundle.path), str(drawn_data), "--out", str(page)]) == 0

    results = json.loads((page.parent / "results" / "added_parts.json").read_text())
    assert set(results) == set(added_parts.CHANGES)
    row = results["another lens and lamp"]["rings/ring"]
    assert row["added"] == 2 and row["others"] == 1 and row["defects"] == 1
    assert "| **all** | 2 |" in page.read_text()


def test_products_are_loaded_from_their_folders(drawn_data: Path, lite_inspector: object) -> None:
    (product,) = image_checks.load_products(lite_inspector, drawn_data)

    assert product.name == "rings/ring"
    assert [len(product.train), len(product.good), len(product.bad)] == [4, 3, 1]
    rates = image_checks.planted_rates(lite_inspector, [product] * 5)
    assert rates["cropped by a tenth"]["wrong size"] == 1.0
    assert rates["all good"]["wrong size"] == 0.0
