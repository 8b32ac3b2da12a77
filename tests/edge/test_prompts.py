"""Prompts and their ensemble, against counts of the paper and a float64 average."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from cff_edge.prompts import ABNORMAL_STATES, NORMAL_STATES, TEMPLATES, anchors, text_vectors
from cff_edge.prompts import prompts as written_prompts
from cff_runtime.errors import UsageError


def _embedding(text: str) -> np.ndarray:
    """Return a vector that depends on the text alone."""
    seed = int.from_bytes(text.encode(), "little") % 2**32
    return np.random.RandomState(seed).standard_normal(24) + 0.5


def _encode(texts: list[str]) -> Tensor:
    return torch.from_numpy(np.stack([_embedding(text) for text in texts])).float()


def test_counts_are_those_of_april_gan() -> None:
    normal, abnormal = written_prompts("bottle")
    assert (len(NORMAL_STATES), len(ABNORMAL_STATES), len(TEMPLATES)) == (7, 5, 35)
    assert (len(normal), len(abnormal)) == (245, 175)
    assert len(set(normal + abnormal)) == 420
    assert all(text.endswith(".") and "bottle" in text for text in normal + abnormal)


def test_strings_never_change() -> None:
    # Compared once, string by string, with the list of the paper's authors.
    normal, abnormal = written_prompts("metal_nut")
    digest = hashlib.sha256("\n".join(normal + abnormal).encode()).hexdigest()
    assert digest == "0aee08f218b0ffe72048e491b942e66050d2dd18685a6bfe0bb69ecd679e908d"


def test_product_is_used_as_given() -> None:
    normal, abnormal = written_prompts("metal_nut")
    assert normal[0] == "a bad photo of a metal_nut."
    assert "a photo of the cool metal_nut without flaw." in normal
    assert "this is one unblemished metal_nut in the scene." in normal
    assert "there is the metal_nut with damage in the scene." in abnormal
    assert "a jpeg corrupted photo of a broken metal_nut." in abnormal


def test_braces_in_a_product_are_text() -> None:
    normal, _ = written_prompts("{odd} {}")
    assert normal[0] == "a bad photo of a {odd} {}."


@pytest.mark.parametrize("product", ["", "  "])
def test_blank_product_is_refused(product: str) -> None:
    with pytest.raises(UsageError, match=r"`product` must be"):
        written_prompts(product)


def test_text_vectors_match_a_float64_average() -> None:
    vectors = text_vectors(_encode, "pipe_fryum")
    for column, texts in enumerate(written_prompts("pipe_fryum")):
        total = np.zeros(24)
        for text in texts:
            row = _embedding(text).astype(np.float32).astype(np.float64)
            total += row / np.sqrt((row**2).sum())
        mean = total / len(texts)
        expected = mean / np.sqrt((mean**2).sum())
        np.testing.assert_allclose(vectors[:, column].numpy(), expected, atol=1e-7)
    assert vectors.shape == (24, 2)
    assert vectors.dtype == torch.float32


def test_columns_are_normal_then_abnormal() -> None:
    def one_hot(texts: list[str]) -> Tensor:
        abnormal = [any(word in t for word in ("damaged", "broken", "with ")) for t in texts]
        return torch.tensor([[0.0, 3.0] if flag else [2.0, 0.0] for flag in abnormal])

    torch.testing.assert_close(text_vectors(one_hot, "cable"), torch.eye(2))


@pytest.mark.parametrize("joint_dim", [2, 512, 768])
def test_anchors_are_orthonormal(joint_dim: int) -> None:
    vectors = anchors(joint_dim)
    assert vectors.shape == (joint_dim, 2)
    assert vectors.dtype == torch.float32
    gram = vectors.double().T @ vectors.double()
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_anchors_are_independent_of_global_seeds() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = anchors(64)
    torch.manual_seed(2)
    np.random.seed(2)
    state = torch.get_rng_state()
    assert torch.equal(anchors(64), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_anchors_never_change() -> None:
    # Trained projectors lean on these very numbers.
    expected = [
        [-0.2002789, -0.1999440],
        [0.3656941, -0.0564287],
        [-0.4919940, -0.8107364],
        [0.7642631, -0.5473068],
    ]
    np.testing.assert_allclose(anchors(4).numpy(), expected, atol=1e-6)
