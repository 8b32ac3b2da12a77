"""A synthetic data set in MVTec AD layout, cut from photographs that scikit-image's wheel carries.

Parts. A texture (brick, gravel, grass) is cut at random places: training parts from the
left half of the photograph, test parts from the right half. An aligned part (cup, coin, engine,
eye) is cut about one place. Every part is shifted, turned by up to 3 degrees, brightened or
darkened by up to 6 %, and gets sensor noise, so that no two are equal.

Defects, each with the exact mask of the pixels it changes:

scratch   a bent line 2 to 4 px wide, brighter or darker
stain     an irregular blot that darkens and tints what lies under it
hole      a dark disc with a light rim
patch     a piece of another photograph with soft edges

A defect that changes its pixels by less than 20 grey levels in the mean, such as a stain on a
black ground, is drawn again. Everything is drawn from one seed. The data say nothing about a real
product.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from cff_runtime.storage import atomic_write

SIDE_PX = 256
_MAX_DEGREES = 3.0
_MAX_GAIN = 0.06
_NOISE = 2.5
_MIN_CHANGE = 20.0  # grey levels of the channel that changes most, in the mean over the mask
_VISIBLE = 0.25  # a defect's opacity below this is dropped, so that mask and change agree

Image = NDArray[np.uint8]
Opacity = NDArray[np.float32]


@dataclass(frozen=True)
class _Product:
    """A photograph and where parts are cut from it.

    `centre` is None for a texture; `side_px` is the side of the cut in the photograph.
    """

    name: str
    load: Callable[[], Image]
    side_px: int
    centre: tuple[int, int] | None = None
    jitter_px: float = 4.0


def _motorcycle() -> Image:
    left: Image = skimage.data.stereo_motorcycle()[0]  # type: ignore[no-untyped-call]
    return left


_PRODUCTS = (
    _Product("brick", skimage.data.brick, 200),
    _Product("coin", skimage.data.coins, 80, centre=(52, 211), jitter_px=1.5),
    _Product("engine", _motorcycle, 300, centre=(270, 330)),
    _Product("eye", skimage.data.retina, 900, centre=(700, 700), jitter_px=10.0),
    _Product("grass", skimage.data.grass, 200),
    _Product("gravel", skimage.data.gravel, 200),
    _Product("cup", skimage.data.coffee, 330, centre=(200, 315)),
)
PRODUCTS = tuple(product.name for product in _PRODUCTS)
DEFECTS = ("hole", "patch", "scratch", "stain")


@dataclass(frozen=True, eq=False)
class Part:
    """A part without its defect, with it, and the defect's mask.

    Attributes
    ----------
    clean, image : ndarray of shape (256, 256, 3), uint8
    mask : ndarray of shape (256, 256), bool
    """

    clean: Image
    image: Image
    mask: NDArray[np.bool_]


def write_synthetic_dataset(
    root: Path, seed: int = 0, n_train: int = 12, n_good: int = 10, n_per_defect: int = 4
) -> None:
    """Write all products below `root`.

    Parameters
    ----------
    root : Path
        Folder of the data set; ``<root>/<product>/{train,test,ground_truth}/...``.
    seed : int
        Of every choice.
    n_train, n_good : int
        Good parts for training and for testing, per product.
    n_per_defect : int
        Defective test parts, per product and kind of defect.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    for index, product in enumerate(_PRODUCTS):
        rng = np.random.default_rng([seed, index])
        folder = root / product.name
        for number in range(n_train):
            _write(folder / "train" / "good" / f"{number:03}.png", cut_part(index, rng, "train"))
        for number in range(n_good):
            _write(folder / "test" / "good" / f"{number:03}.png", cut_part(index, rng, "test"))
        for defect in DEFECTS:
            for number in range(n_per_defect):
                part = draw_defective_part(index, defect, rng)
                mask = part.mask.astype(np.uint8) * 255
                _write(folder / "test" / defect / f"{number:03}.png", part.image)
                _write(folder / "ground_truth" / defect / f"{number:03}_mask.png", mask)


def cut_part(product: int, rng: np.random.Generator, split: str) -> Image:
    """Cut a good part of the product of that index; return RGB [256,256,3], uint8."""
    spec = _PRODUCTS[product]
    photograph = _photograph(product)
    height, width = photograph.shape[:2]
    if spec.centre is None:
        margin = spec.side_px * 0.54  # a turned square reaches this far from its centre
        left, right = (0, width / 2) if split == "train" else (width / 2, width)
        y = rng.uniform(margin, height - margin)
        x = rng.uniform(left + margin, right - margin)
    else:
        y, x = np.array(spec.centre) + rng.uniform(-spec.jitter_px, spec.jitter_px, 2)
    scale = SIDE_PX / spec.side_px
    motion = cv2.getRotationMatrix2D((x, y), rng.uniform(-_MAX_DEGREES, _MAX_DEGREES), scale)
    motion[:, 2] += (SIDE_PX / 2 - x, SIDE_PX / 2 - y)
    part = cv2.warpAffine(
        photograph,
        motion,
        (SIDE_PX, SIDE_PX),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    gain = 1.0 + rng.uniform(-_MAX_GAIN, _MAX_GAIN)
    return _to_uint8(part * gain + rng.normal(0.0, _NOISE, part.shape))


def draw_defective_part(product: int, defect: str, rng: np.random.Generator) -> Part:
    """Cut a test part and draw a defect into it that can be seen."""
    clean = cut_part(product, rng, "test")
    while True:
        part = _draw_defect(product, defect, rng, clean)
        change = np.abs(part.image.astype(np.int16) - part.clean).max(axis=2)
        if part.mask.any() and change[part.mask].mean() >= _MIN_CHANGE:
            return part


def _draw_defect(product: int, defect: str, rng: np.random.Generator, clean: Image) -> Part:
    if defect == "patch":
        donor = (product + int(rng.integers(1, len(_PRODUCTS)))) % len(_PRODUCTS)
        opacity, paint = _patch(rng, cut_part(donor, rng, "test"))
    else:
        draw = {"hole": _hole, "scratch": _scratch, "stain": _stain}[defect]
        opacity, paint = draw(rng, clean.astype(np.float32))
    opacity = np.where(opacity < _VISIBLE, 0.0, opacity)[:, :, None]
    image = _to_uint8(clean * (1.0 - opacity) + paint * opacity)
    # a paint equal to the part changes nothing there; the mask says what was changed
    return Part(clean, image, (image != clean).any(axis=2))


def _scratch(rng: np.random.Generator, part: NDArray[np.float32]) -> tuple[Opacity, Opacity]:
    start = rng.uniform(60, 196, 2)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(70, 150)
    t = np.linspace(-0.5, 0.5, 24)
    bend = rng.uniform(-25, 25) * (t**2 - 0.08)
    direction, normal = _unit(angle), _unit(angle + np.pi / 2)
    points = start + t[:, None] * length * direction + bend[:, None] * normal
    canvas = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    thickness = int(rng.integers(2, 5))
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return _soft(canvas, 0.6), _contrasting(rng, part, canvas > 0, 85.0)


def _stain(rng: np.random.Generator, part: NDArray[np.float32]) -> tuple[Opacity, Opacity]:
    radius = rng.uniform(13, 27)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    wobble = np.zeros_like(angles)
    for k in (2, 3, 5):
        wobble += rng.uniform(0.05, 0.18) * np.sin(k * angles + rng.uniform(0, 2 * np.pi))
    reach = radius * (1 + wobble)
    centre = rng.uniform(50, 206, 2)
    points = (
        centre
        + np.stack([np.cos(angles), rng.uniform(0.6, 1) * np.sin(angles)], 1) * (reach[:, None])
    )
    canvas = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 255)
    tint = np.array([0.62, 0.5, 0.36]) + rng.uniform(-0.06, 0.06)
    return _soft(canvas, 2.0) * 0.9, (part * tint).astype(np.float32)


def _hole(rng: np.random.Generator, part: NDArray[np.float32]) -> tuple[Opacity, Opacity]:
    centre = tuple(int(value) for value in rng.integers(40, 216, 2))
    radius = int(rng.integers(8, 17))
    canvas = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.circle(canvas, centre, radius + 2, 255, -1, cv2.LINE_AA)
    paint = np.full_like(part, 205.0)  # the rim
    cv2.circle(paint, centre, radius, (18.0, 18.0, 20.0), -1, cv2.LINE_AA)
    return _soft(canvas, 0.8), paint


def _patch(rng: np.random.Generator, donor: Image) -> tuple[Opacity, Opacity]:
    centre = tuple(int(value) for value in rng.integers(50, 206, 2))
    axes = tuple(int(value) for value in rng.integers(14, 28, 2))
    canvas = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    return _soft(canvas, 1.5), donor.astype(np.float32)


def _contrasting(
    rng: np.random.Generator, part: NDArray[np.float32], inside: NDArray[np.bool_], step: float
) -> Opacity:
    """Return the part brightened, mostly where it is dark, or else darkened."""
    brightened = rng.random() < (0.9 if part[inside].mean() < 128 else 0.1)
    return part + np.float32(step if brightened else -step)


def _soft(canvas: NDArray[np.uint8], sigma: float) -> Opacity:
    """Return an opacity of 0 to 1 with soft edges."""
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), sigma) / 255, np.float32)


def _unit(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


@functools.cache
def _photograph(product: int) -> Image:
    photograph = _PRODUCTS[product].load()
    if photograph.ndim == 2:
        photograph = np.repeat(photograph[:, :, None], 3, axis=2)
    return np.ascontiguousarray(photograph[:, :, :3])


def _to_uint8(values: NDArray[np.floating]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _write(path: Path, image: Image) -> None:
    pixels = image if image.ndim == 2 else image[:, :, ::-1]
    _, data = cv2.imencode(".png", pixels)
    atomic_write(path, data.tobytes())
