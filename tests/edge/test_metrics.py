"""The package's surface, `evaluate`, and real anomaly maps with known figures."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import cff_edge.metrics
from cff_edge.metrics import (
    METRIC_NAMES,
    Metrics,
    evaluate,
    image_ap,
    image_auroc,
    image_f1_max,
    pixel_ap,
    pixel_auroc,
    pixel_f1_max,
    pro_as_published,
    pro_exact,
)
from cff_runtime.errors import DatasetError

Case = tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float32]]


def draw(n_images: int, side_px: int, seed: int = 0) -> Case:
    """Return labels, scores, masks and maps of as many good as defective images."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n_images, side_px, side_px), bool)
    labels = np.arange(n_images) % 2 == 1
    for index in np.flatnonzero(labels):
        row, column = rng.integers(0, side_px - 5, 2)
        masks[index, row : row + 4, column : column + 3] = True
    maps = rng.normal(0.7 * masks, 0.4).astype(np.float32)
    return labels, maps.max(axis=(1, 2)).astype(np.float64), masks, maps


def test_exports_are_sorted_and_there() -> None:
    names = cff_edge.metrics.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(cff_edge.metrics, name) for name in names)


def test_evaluate_returns_each_metric_in_its_field() -> None:
    labels, scores, masks, maps = draw(8, 40)
    assert evaluate(labels, scores, masks, maps) == Metrics(
        pixel_auroc=pixel_auroc(masks, maps),
        pixel_f1_max=pixel_f1_max(masks, maps),
        pixel_ap=pixel_ap(masks, maps),
        pro=pro_as_published(masks, maps),
        pro_exact=pro_exact(masks, maps),
        image_auroc=image_auroc(labels, scores),
        image_f1_max=image_f1_max(labels, scores),
        image_ap=image_ap(labels, scores),
    )


def test_all_values_differ_so_that_none_can_be_mistaken() -> None:
    values = evaluate(*draw(8, 40)).to_dict()
    assert len(set(values.values())) == len(values) == 8
    assert all(0 < value <= 1 for value in values.values())
    assert tuple(values) == METRIC_NAMES
    assert json.loads(json.dumps(values)) == values


def test_a_defective_image_may_have_lost_its_mask() -> None:
    """A small defect can vanish when masks are made smaller; the image stays defective."""
    labels, scores, masks, maps = draw(8, 40)
    masks[1] = False
    assert evaluate(labels, scores, masks, maps).image_auroc == image_auroc(labels, scores)


def test_memory_is_a_few_bytes_a_pixel() -> None:
    """16 bytes beside the arguments make 0.6 GiB of 150 images of 518 x 518 pixels."""
    arguments = draw(10, 518)
    tracemalloc.start()
    try:
        evaluate(*arguments)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * arguments[3].size


class TestErrors:
    def test_good_images_with_a_mask(self) -> None:
        labels, scores, masks, maps = draw(8, 40)
        expected = (
            r"^`masks` must be empty where `labels` is False, got 12 defective pixels in image 3; "
        )
        labels[[2, 3]] = labels[[3, 2]]
        with pytest.raises(DatasetError, match=expected):
            evaluate(labels, scores, masks, maps)

    def test_another_number_of_masks(self) -> None:
        labels, scores, masks, maps = draw(8, 40)
        expected = r"^`masks` must be one an image, 8 as in `labels`, got 7; "
        with pytest.raises(DatasetError, match=expected):
            evaluate(labels, scores, masks[1:], maps[1:])

    def test_what_is_not_finite(self) -> None:
        labels, scores, masks, maps = draw(8, 40)
        maps[0, 0, 0] = np.nan
        with pytest.raises(DatasetError, match=r"^`maps` must be finite"):
            evaluate(labels, scores, masks, maps)
        with pytest.raises(DatasetError, match=r"^`scores` must be finite"):
            evaluate(labels, np.where(labels, np.inf, scores), masks, maps)


@pytest.mark.real_parts
@pytest.mark.skipif(not os.environ.get("CFF_DATA"), reason="CFF_DATA names no real images")
def test_real_anomaly_maps() -> None:
    """64 maps with figures from another machine; the image score is the maximum."""
    folder = Path(os.environ["CFF_DATA"]) / "_metric_fixture"
    expected = json.loads((folder / "expected.json").read_text())["paper_fvn01_k4"]["expected"]
    with np.load(folder / "paper_fvn01_k4.npz") as file:
        arrays = {name: file[name] for name in file}
    maps = arrays["maps"]
    masks = np.unpackbits(arrays["masks"], axis=-1, count=maps.shape[2]).astype(bool)
    labels = masks.any(axis=(1, 2))
    np.testing.assert_array_equal(labels, arrays["labels"])
    metrics = evaluate(labels, maps.astype(np.float64).max(axis=(1, 2)), masks, maps)
    for name, key in {
        "image_auroc": "image_auroc",
        "image_ap": "image_ap",
        "image_f1_max": "image_f1max",
        "pixel_auroc": "pixel_auroc",
        "pixel_ap": "pixel_ap",
        "pixel_f1_max": "pixel_f1max",
        "pro_exact": "aupro_030_exact",
    }.items():
        assert metrics.to_dict()[name] == pytest.approx(expected[key], abs=1e-12), name
