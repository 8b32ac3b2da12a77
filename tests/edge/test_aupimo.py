"""AUPIMO with anomalib, where it is installed, and without."""

import importlib.util
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_edge.metrics.aupimo import aupimo
from cff_runtime.errors import DatasetError, MissingDependencyError


def draw() -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return four images, two of them with a defect, and a map that finds half of each."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 300, 300), bool)
    masks[1, 40:60, 40:60], masks[3, 80:120, 10:30] = True, True
    maps = rng.exponential(size=masks.shape).astype(np.float32)
    maps[1, 40:60, 40:50] += 20
    maps[3, 80:100, 10:30] += 20
    return masks, maps


def test_without_anomalib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)
    with pytest.raises(
        MissingDependencyError, match=r"environment of its own: run `make peers-install`"
    ):
        aupimo(*draw())


def test_without_good_images() -> None:
    masks, maps = draw()
    with pytest.raises(DatasetError, match=r"^`masks` must hold good images, got 2 defective of 2"):
        aupimo(masks[[1, 3]], maps[[1, 3]])


@pytest.mark.skipif(importlib.util.find_spec("anomalib") is None, reason="needs anomalib")
@pytest.mark.filterwarnings("default")  # its imports warn
class TestWithAnomalib:
    def test_half_of_each_defect_is_found_before_the_first_false_positive(self) -> None:
        """The other half scores as good pixels do: hardly any of it is found by a rate of 1e-4.

        The good images have 180 000 pixels, so the rate nearest to 1e-5 is 2 of them, and of the
        decade up to 1e-4 only log10(9) is left.
        """
        expected = 0.5 * np.log10(9)
        assert aupimo(*draw(), n_thresholds=50_000) == pytest.approx(expected, abs=1e-3)

    def test_images_too_small_for_such_low_rates(self) -> None:
        masks, maps = draw()
        with pytest.raises(DatasetError, match=r"^`maps` must let AUPIMO be computed, got a refus"):
            aupimo(masks[:, 40:60, 40:60], maps[:, 40:60, 40:60])
