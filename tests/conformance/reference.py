"""What every implementation must answer, in NumPy and float64, written from `docs/formats.md`.

Nothing of the runtime is used here. Grey levels are integers and exact; everything behind the
encoder's input is float64 until it is compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Image = NDArray[np.uint8]
Doubles = NDArray[np.float64]
AnyArray = NDArray[Any]

_FRACTION_BITS = 22


@dataclass(frozen=True)
class Encoding:
    """`features`: per stage [N_s,C_s]; `map` [H,W]; `score` where the encoder gives one."""

    features: list[Doubles]
    map: Doubles
    score: float | None


@dataclass(frozen=True)
class Region:
    """A connected part of a map above a threshold; area and box in pixels of the image."""

    area_px: float
    peak: float
    box: tuple[int, int, int, int]


def resize(image: Image, height: int, width: int) -> Image:
    """Resize [h,w,3] to [height,width,3]: bicubic, antialiased, the horizontal pass first."""
    if image.shape[:2] == (height, width):
        return image
    wide = _resize_rows(image.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return _resize_rows(wide, height)


def _resize_rows(image: Image, n_out: int) -> Image:
    weights = _resize_weights(len(image), n_out)
    sums = np.tensordot(weights, image.astype(np.int64), axes=1) + (1 << (_FRACTION_BITS - 1))
    return np.clip(sums >> _FRACTION_BITS, 0, 255).astype(np.uint8)


def _resize_weights(n_in: int, n_out: int) -> NDArray[np.int64]:
    """Return weights [n_out,n_in] with 22 fractional bits."""
    scale = n_in / n_out
    widened = max(scale, 1.0)
    centres = (np.arange(n_out) + 0.5) * scale
    t = np.abs(np.arange(n_in)[None, :] + 0.5 - centres[:, None]) / widened
    near = (1.5 * t - 2.5) * t * t + 1.0
    far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    weights = np.where(t < 1.0, near, np.where(t < 2.0, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    scaled = weights * (1 << _FRACTION_BITS)
    return np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64)  # halves away from zero


class Encoder:
    """An encoder's graph, run operator by operator; the manifest names its inputs and outputs."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        model = onnx.load(path)
        self._graph = model.graph
        self._constants = {
            tensor.name: _as_double(numpy_helper.to_array(tensor))
            for tensor in self._graph.initializer
        }

    def __call__(self, image: Image, condition: NDArray[np.float32]) -> Encoding:
        """Encode a preprocessed image [H,W,3] with a condition."""
        values = {**self._constants, "image": image[None]}
        values[self._manifest["condition"]["input"]] = condition.astype(np.float64)
        for node in self._graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = _operate(node.op_type, inputs, attributes)
        name = self._manifest["score"]["output"]
        score = None if name is None else float(values[name][0])
        features = [values[f"features_{s}"][0] for s in range(len(self._manifest["stages"]))]
        return Encoding(features, values[self._manifest["map"]["output"]][0], score)


def _as_double(array: AnyArray) -> AnyArray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _operate(operator: str, inputs: list[AnyArray], attributes: Mapping[str, Any]) -> AnyArray:
    first = inputs[0]
    second = inputs[1] if len(inputs) > 1 else first
    if operator == "Conv":
        return _convolve(first, second, inputs[2], attributes)
    if operator == "Reshape":
        sides = [first.shape[i] if side == 0 else int(side) for i, side in enumerate(second)]
        return first.reshape(sides)
    if operator == "ReduceL2":
        return np.sqrt((first * first).sum(axis=int(second[0]), keepdims=True))
    if operator == "Softmax":
        powers = np.exp(first - first.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)
    if operator == "Transpose":
        return first.transpose(attributes["perm"])
    simple: dict[str, Callable[[], AnyArray]] = {
        "Cast": lambda: first.astype(np.float64),
        "Sub": lambda: first - second,
        "Mul": lambda: first * second,
        "Div": lambda: first / second,
        "MatMul": lambda: first @ second,
        "Relu": lambda: np.maximum(first, 0.0),
        "Sigmoid": lambda: 1.0 / (1.0 + np.exp(-first)),
        "Sum": lambda: np.sum(np.stack(inputs), axis=0),
        "GlobalAveragePool": lambda: first.mean(axis=(2, 3), keepdims=True),
    }
    return simple[operator]()


def _convolve(
    planes: Doubles, weights: Doubles, bias: Doubles, attributes: Mapping[str, Any]
) -> Doubles:
    """Convolve [B,C,h,w] with [D,C,k,k]."""
    stride = attributes.get("strides", [1, 1])[0]
    pad = attributes.get("pads", [0])[0]
    padded = np.pad(planes, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], axis=(2, 3))
    found = np.einsum("bchwij,dcij->bdhw", windows[:, :, ::stride, ::stride], weights)
    return found + bias[None, :, None, None]


def search(features: Sequence[Doubles], banks: Sequence[Doubles]) -> list[Doubles]:
    """Return each token's largest cosine to a memory bank, [N_s] per stage."""
    return [(rows @ bank.T).max(axis=1) for rows, bank in zip(features, banks, strict=True)]


def distances(nearest: Sequence[Doubles], kind: str) -> list[Doubles]:
    """Return d(D_s), [N_s] per stage; `kind` is ``cosine`` or ``log``."""
    plain = [1.0 - cosine for cosine in nearest]
    if kind == "cosine":
        return plain
    return [np.log(1.0 + np.maximum(d, 0.0) / 0.01) for d in plain]


def anomaly_map(
    found: Sequence[Doubles],
    grids: Sequence[tuple[int, int]],
    encoder_map: Doubles,
    weight: float,
) -> Doubles:
    """Return the map [H,W] of the distances of some stages, or of none."""
    height, width = encoder_map.shape
    total = weight * encoder_map
    for stage, grid in zip(found, grids, strict=False):
        total = total + _tent(grid[0], height) @ stage.reshape(grid) @ _tent(grid[1], width).T
    return total


def _tent(n_in: int, n_out: int) -> Doubles:
    """Return the matrix [n_out,n_in] of bilinear interpolation with aligned corners."""
    places = np.linspace(0.0, n_in - 1.0, n_out)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(n_in)))


def statistic_of(values: Doubles, kind: str) -> float:
    """Return what of a map makes the score: ``max``, or ``std`` over all its pixels."""
    if kind == "max":
        return float(values.max())
    return float(np.sqrt(np.mean((values - values.mean()) ** 2)))


def score_of(statistic: float, encoder_score: float | None, peak_scale: float) -> float:
    """Return the image score."""
    if encoder_score is None:
        return statistic
    return 0.5 * (encoder_score + peak_scale * statistic)


def verdict_of(score: float, threshold: float, review: float) -> str:
    """Return what becomes of a part."""
    if score > threshold:
        return "reject"
    return "review" if score > review else "pass"


def find_regions(values: Doubles, threshold: float, image_size: tuple[int, int]) -> list[Region]:
    """Return the 8-connected parts of a map above a threshold, strongest first.

    `image_size` is height and width of the image as it was given.
    """
    todo = {(int(y), int(x)) for y, x in np.argwhere(values > threshold)}
    scale = (image_size[0] * image_size[1]) / values.size
    regions = []
    while todo:
        part = _flood(todo)
        rows, columns = [y for y, _ in part], [x for _, x in part]
        top, bottom = _outward(rows, image_size[0], values.shape[0])
        left, right = _outward(columns, image_size[1], values.shape[1])
        peak = max(float(values[place]) for place in part)
        regions.append(Region(len(part) * scale, peak, (left, top, right - left, bottom - top)))
    return sorted(regions, key=lambda region: -region.peak)


def _flood(todo: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Take a connected part out of some pixels."""
    part = [todo.pop()]
    for y, x in part:  # grows on the way
        near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
        todo -= near
        part += near
    return part


def _outward(places: list[int], image_side: int, map_side: int) -> tuple[int, int]:
    """Scale [first, last] from the map to whole pixels of the image, rounding outwards."""
    start, stop = min(places) * image_side, (max(places) + 1) * image_side
    return start // map_side, -(-stop // map_side)


def mean_features(features: Sequence[Doubles]) -> list[Doubles]:
    """Return the mean feature of an image, [C_s] of unit length per stage."""
    means = [rows.mean(axis=0) for rows in features]
    return [mean / np.linalg.norm(mean) for mean in means]


def product_distance(means: Sequence[Doubles], references: Sequence[Doubles]) -> float:
    """Return how far an image is from the nearest of some references, [K,C_s] per stage."""
    total = np.zeros(len(references[0]))
    for mean, rows in zip(means, references, strict=True):
        total += np.log(1.0 + np.maximum(1.0 - rows @ mean, 0.0) / 0.01)
    return float(total.min())


def warning_of(product: str, distance: float, limit: float) -> str | None:
    """Return what is said of an image that looks like another product."""
    if distance <= limit:
        return None
    return (
        f"looks like another product than `{product}`: as a whole it differs from the references "
        f"by {distance:.1f}, usual is {limit:.1f} at most"
    )
