"""The images of the conformance set: drawn plates, integers from frozen generators, no photograph.

A plate has a bright ring on a brushed ground. `seed` moves it a little, as good parts differ;
`marks` are defects: x, y, radius in -1 to 1, and the grey levels that they add.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mark = tuple[float, float, float, float]

DENT: Mark = (0.45, -0.5, 0.28, 110.0)
HOLE: Mark = (-0.5, 0.55, 0.26, -120.0)
SPOT: Mark = (0.6, 0.62, 0.2, 130.0)
FAINT: Mark = (0.1, 0.1, 0.3, 16.0)


def draw_plate(
    seed: int, width: int, height: int, marks: Sequence[Mark] = (), noise: int = 3
) -> Image:
    """Return a plate, RGB [height,width,3]; `noise` in grey levels."""
    rng = np.random.RandomState(seed)
    x0, y0, phase, light = rng.randint(-100, 101, 4) / 100.0
    y, x = np.meshgrid(_places(height), _places(width), indexing="ij")
    radius = np.hypot(x - 0.02 * x0, 1.1 * (y - 0.02 * y0))
    shade = 96.0 + 22.0 * np.sin(5.0 * x + 3.0 * y) + 14.0 * np.sin(9.0 * y + 0.1 * phase)
    shade += 70.0 / (1.0 + np.exp((np.abs(radius - 0.55) - 0.16) * 40.0)) + 3.0 * light
    for mark_x, mark_y, size, level in marks:
        shade += level / (1.0 + np.exp((np.hypot(x - mark_x, y - mark_y) - size) * 30.0))
    colours = np.stack([shade, 0.9 * shade + 8.0 * x, 0.8 * shade + 12.0], axis=2)
    colours += rng.randint(-noise, noise + 1, (height, width, 3))
    return _levels(colours)


def draw_weave(width: int, height: int) -> Image:
    """Return another product: a coloured weave."""
    y, x = np.meshgrid(_places(height), _places(width), indexing="ij")
    first = 110.0 + 90.0 * np.sin(10.3 * x + 1.0) * np.cos(11.0 * y)
    second = 110.0 - 80.0 * np.sin(9.0 * x - 7.0 * y)
    return _levels(np.stack([first, second, 230.0 - 0.5 * first], axis=2))


def as_grey(image: Image) -> Image:
    """Return an image whose channels are equal, as a grey camera's."""
    grey = image.astype(np.int64).sum(axis=2) // 3
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def draw_all() -> dict[str, Image]:
    """Return every image of the set, by name."""
    return {
        "reference_0": draw_plate(1, 44, 36),
        "reference_1": draw_plate(2, 44, 36),
        "reference_2": draw_plate(3, 40, 40),
        "reference_3": draw_plate(4, 38, 42),
        "good": draw_plate(5, 46, 38),
        "same_size": draw_plate(6, 28, 32),
        "tiny": draw_plate(7, 16, 16, noise=1),
        "portrait": draw_plate(8, 30, 62, [HOLE]),
        "grey": as_grey(draw_plate(9, 40, 34, [DENT])),
        "large": draw_plate(20, 140, 100, [DENT, HOLE, SPOT], noise=0).repeat(5, 0).repeat(5, 1),
        "faint": draw_plate(11, 42, 38, [FAINT]),
        "weave": draw_weave(48, 40),
        # its regions touch at a corner
        "corner": draw_plate(91, 44, 36, [(-0.25, 0.15, 0.16, -90.0), (0.25, 0.65, 0.16, -90.0)]),
        "further_0": draw_plate(20, 40, 32),
        "further_1": draw_plate(21, 40, 32),
        "further_2": draw_plate(22, 40, 32),
        "further_3": draw_plate(23, 40, 32, [(0.1, -0.3, 0.25, 60.0)]),
        "further_4": draw_plate(24, 40, 32, [(-0.2, 0.2, 0.25, -64.0)]),
        "defect_0": draw_plate(30, 40, 32, [(0.0, 0.0, 0.2, 10.0)]),
        "defect_1": draw_plate(31, 40, 32, [(0.3, 0.2, 0.2, -12.0)]),
        "defect_2": draw_plate(32, 40, 32, [FAINT]),
        "defect_3": draw_plate(33, 40, 32, [SPOT]),
        "defect_4": draw_plate(34, 40, 32, [DENT]),
    }


def _places(n: int) -> NDArray[np.float64]:
    return (2.0 * np.arange(n) + 1.0) / n - 1.0


def _levels(values: NDArray[np.float64]) -> Image:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
