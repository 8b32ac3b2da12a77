"""Golden images: three drawn "parts", one with a defect, the same on every machine.

They are drawn, not photographed, so that a bundle carries nobody's pictures; none has the
encoder's size, so that checking them checks the resize too.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN_NAMES = ("golden_0.png", "golden_1.png", "golden_2.png")
N_REFERENCES = 2  # the first two are good parts, the third is not
_SIZES = ((420, 560), (300, 300), (700, 410))


def draw_golden_images() -> list[NDArray[np.uint8]]:
    """Return three RGB images [h,w,3], uint8: two good parts and a defective one."""
    return [_draw(seed, size, seed >= N_REFERENCES) for seed, size in enumerate(_SIZES)]


def _draw(seed: int, size: tuple[int, int], defective: bool) -> NDArray[np.uint8]:
    """A brushed disc with a ring of holes on a dark ground; integer noise, no libm in the last bit.

    A float that rounds differently on another machine would move a grey value by one, which the
    golden files carry anyway: they are stored, not redrawn.
    """
    rng = np.random.RandomState(seed)  # its streams are frozen for good
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = (x / width - 0.5) * 2.0, (y / height - 0.5) * 2.0
    radius = np.hypot(x, y)
    shade = np.where(radius < 0.8, 150.0 + 40.0 * x * (1.0 - radius), 40.0)
    for hole in range(6):
        angle = hole * np.pi / 3 + 0.02 * seed
        shade[np.hypot(x - 0.5 * np.cos(angle), y - 0.5 * np.sin(angle)) < 0.11] = 20.0
    if defective:
        shade[(np.abs(x - y * 0.3) < 0.02) & (np.abs(y) < 0.45)] = 235.0
    brushed = shade + rng.randint(-12, 13, size=(height, 1))
    colour = np.array([1.0, 0.96, 0.88])
    noisy = brushed[:, :, None] * colour + rng.randint(-6, 7, size=(height, width, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
