"""TFA-Net in NumPy, float64, one image and one formula at a time (tfa_net.md 2.1-2.4, 2.7)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float64]
EPS = 1e-6


def gelu(x: Array) -> Array:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(
        x.shape
    )


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + EPS) * weight + bias


def attention(x: Array, state: Mapping[str, Array], name: str, n_heads: int) -> Array:
    """Self-attention of [L,D], head by head and row by row."""
    length, width = x.shape
    qkv = x @ state[f"{name}.qkv.weight"].T + state[f"{name}.qkv.bias"]
    size = width // n_heads
    output = np.zeros((length, width))
    for head in range(n_heads):
        columns = slice(head * size, (head + 1) * size)
        query, key, value = (qkv[:, i * width : (i + 1) * width][:, columns] for i in range(3))
        for row in range(length):
            logits = key @ query[row] / math.sqrt(size)
            weights = np.exp(logits - logits.max())
            output[row, columns] = weights / weights.sum() @ value
    return output @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def block(x: Array, state: Mapping[str, Array], name: str, n_heads: int) -> Array:
    def norm(y: Array, which: str) -> Array:
        return layer_norm(y, state[f"{name}.{which}.weight"], state[f"{name}.{which}.bias"])

    x = x + attention(norm(x, "norm1"), state, f"{name}.attention", n_heads)
    hidden = gelu(norm(x, "norm2") @ state[f"{name}.fc1.weight"].T + state[f"{name}.fc1.bias"])
    return x + hidden @ state[f"{name}.fc2.weight"].T + state[f"{name}.fc2.bias"]


def positions(width: int, side: int) -> Array:
    """Code of [side*side,width]: of the column, then of the row; sines, then cosines."""
    quarter = width // 4
    code = np.zeros((side * side, width))
    for row in range(side):
        for column in range(side):
            for half, place in enumerate((column, row)):
                for i in range(quarter):
                    angle = place / 10000 ** (i / quarter)
                    code[row * side + column, half * 2 * quarter + i] = math.sin(angle)
                    code[row * side + column, half * 2 * quarter + quarter + i] = math.cos(angle)
    return code


def bilinear(plane: Array, height: int, width: int) -> Array:
    """Resize one plane with aligned corners."""
    output = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            v = y * (plane.shape[0] - 1) / (height - 1)
            u = x * (plane.shape[1] - 1) / (width - 1)
            top, left = min(int(v), plane.shape[0] - 2), min(int(u), plane.shape[1] - 2)
            b, a = v - top, u - left
            cell = plane[top : top + 2, left : left + 2]
            output[y, x] = np.array([1 - b, b]) @ cell @ np.array([1 - a, a])
    return output


def fuse(stages: Sequence[Array], grids: Sequence[int], grid: int) -> Array:
    """[N_s,E_s] of each stage to F [C,g,g]."""
    planes = []
    for stage, side in zip(stages, grids, strict=True):
        for channel in stage.T:
            plane = channel.reshape(side, side)
            planes.append(plane if side == grid else bilinear(plane, grid, grid))
    return np.stack(planes)


def embed(fused: Array, state: Mapping[str, Array], patch: int) -> Array:
    """Strided convolution of F [C,g,g]: tokens [T,D]."""
    kernel, bias = state["embedding.weight"], state["embedding.bias"]
    side = fused.shape[1] // patch
    tokens = np.zeros((side * side, len(bias)))
    for row in range(side):
        for column in range(side):
            window = fused[
                :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
            ]
            tokens[row * side + column] = (kernel * window).sum(axis=(1, 2, 3)) + bias
    return tokens


def reconstruct(
    tokens: Array,
    template: Array,
    state: Mapping[str, Array],
    n_blocks: tuple[int, int],
    n_heads: tuple[int, int],
    patch: int,
) -> Array:
    """Reconstruct F_hat [C,g,g] of the input's tokens on the template's, both [T,D]."""
    n_tokens, width = tokens.shape
    side = math.isqrt(n_tokens)
    code = positions(width, side)
    x = np.concatenate([state["class_token"][0], tokens + code, template + code])
    for i in range(n_blocks[0]):
        x = block(x, state, f"aggregation.{i}", n_heads[0])
    x = np.concatenate([x[:1], x[1 + n_tokens :]])
    x = layer_norm(x, state["aggregation_norm.weight"], state["aggregation_norm.bias"])
    x = x @ state["narrow.weight"].T + state["narrow.bias"]
    x[1:] += positions(x.shape[1], side)
    for i in range(n_blocks[1]):
        x = block(x, state, f"refinement.{i}", n_heads[1])
    x = layer_norm(x, state["refinement_norm.weight"], state["refinement_norm.bias"])
    x = x @ state["prediction.weight"].T + state["prediction.bias"]
    n_channels = x.shape[1] // patch**2
    fused = np.zeros((n_channels, side * patch, side * patch))
    for token, vector in enumerate(x[1:]):
        row, column = divmod(token, side)
        cells = vector.reshape(patch, patch, n_channels)
        for i in range(patch):
            for j in range(patch):
                fused[:, row * patch + i, column * patch + j] = cells[i, j]
    return fused


def anomaly_map(fused: Array, reconstructed: Array, size: int, fusion: str, sigma: float) -> Array:
    """Return the anomaly map [H,H] of F and F_hat [C,g,g]."""
    distance = ((fused - reconstructed) ** 2).mean(axis=0)
    dot = (fused * reconstructed).sum(axis=0)
    norms = np.sqrt((fused**2).sum(axis=0) * (reconstructed**2).sum(axis=0))
    modes = [
        gaussian_filter(bilinear(mode, size, size), sigma, mode="reflect", truncate=4.0)
        for mode in (distance, 1 - dot / norms)
    ]
    return modes[0] * modes[1] if fusion == "product" else 5 * modes[1] + modes[0]
