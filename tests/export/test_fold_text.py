"""One text vector instead of two."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cff_edge.detector import LOGIT_SCALE, abnormal_map
from cff_export.passes import TEXT_DIFFERENCE, text_difference
from cff_runtime.finishing import upsampling_matrix

C = 9
Array = NDArray[np.float64]


def _unit(array: Array, axis: int) -> Array:
    return array / np.linalg.norm(array, axis=axis, keepdims=True)


@pytest.fixture
def text() -> Array:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=C)
    return _unit(np.stack([normal, normal + 0.1 * rng.normal(size=C)], axis=1), axis=0)


@pytest.fixture
def features() -> Array:
    return _unit(np.random.default_rng(1).normal(size=(12, C)), axis=1)


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def test_sigmoid_of_the_difference_is_the_softmax(text: Array, features: Array) -> None:
    difference = text_difference(text)
    assert difference.shape == (C,)
    logits = 100.0 * features @ text
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = exponentials[:, 1] / exponentials.sum(axis=1)
    assert softmax.min() < 0.2
    assert softmax.max() > 0.8
    np.testing.assert_allclose(_sigmoid(features @ difference), softmax, atol=1e-10)


def test_column_one_is_abnormal(text: Array) -> None:
    difference = text_difference(text)
    assert text[:, 1] @ difference > 0 > text[:, 0] @ difference
    np.testing.assert_allclose(text_difference(text[:, ::-1]), -difference, atol=1e-12)


def test_scale_is_the_detectors() -> None:
    assert TEXT_DIFFERENCE == (-LOGIT_SCALE, LOGIT_SCALE)


def test_upsampling_commutes_with_the_difference(text: Array, features: Array) -> None:
    # one plane through the exporter's matrices, two planes through PyTorch's interpolation
    plane = (features @ text_difference(text)).reshape(3, 4)
    up_y = upsampling_matrix(3, 10).astype(np.float64)
    up_x = upsampling_matrix(4, 10).astype(np.float64)
    folded = _sigmoid(up_y @ plane @ up_x.T)
    unfolded = abnormal_map(
        torch.from_numpy(features)[None], torch.from_numpy(text), (3, 4), (10, 10)
    )
    np.testing.assert_allclose(folded, unfolded[0], atol=1e-5)  # the matrices are float32


def test_extreme_logits_stay_finite() -> None:
    text = np.eye(2)
    probability = torch.sigmoid(torch.from_numpy(np.eye(2) @ text_difference(text)).float())
    assert probability.tolist() == [0.0, 1.0]
