"""Golden images: eight drawn "parts", three with a defect, the same on every machine.

They are drawn, not photographed, so that a bundle carries nobody's pictures; none has the
encoder's size, so that checking them checks the resize too.
"""

import numpy as np
from numpy.typing import NDArray

from cff_runtime.verification import DEFECTIVE, GOOD, REFERENCE

# two references, three more good parts, three defective ones
GOLDEN_ROLES = (REFERENCE, REFERENCE, GOOD, GOOD, GOOD, DEFECTIVE, DEFECTIVE, DEFECTIVE)
GOLDEN_NAMES = tuple(f"golden_{index}.png" for index in range(len(GOLDEN_ROLES)))
N_REFERENCES = GOLDEN_ROLES.count(REFERENCE)
# whose features are compared as well; those of a ViT-L/14 at 518 px are 17 MB an image
FEATURE_IMAGES = (0, 5)
_SIZES = (
    (420, 560),
    (300, 300),
    (520, 390),
    (360, 480),
    (610, 600),
    (700, 410),
    (400, 400),
    (330, 520),
)


def draw_golden_images() -> list[NDArray[np.uint8]]:
    """Return eight RGB images [h,w,3], uint8, with the roles of `GOLDEN_ROLES`."""
    return [
        _draw(seed, size, role)
        for seed, (size, role) in enumerate(zip(_SIZES, GOLDEN_ROLES, strict=True))
    ]


def _draw(seed: int, size: tuple[int, int], role: int) -> NDArray[np.uint8]:
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
        angle = hole * np.pi / 3 + 0.02 * (seed % 3)
        shade[np.hypot(x - 0.5 * np.cos(angle), y - 0.5 * np.sin(angle)) < 0.11] = 20.0
    if role == DEFECTIVE:
        stripes = np.where(np.sin(60.0 * (x + y)) > 0, 235.0, 20.0)
        shade = np.where(_defect(seed, x, y), stripes, shade)
    brushed = shade + rng.randint(-12, 13, size=(height, 1))
    colour = np.array([1.0, 0.96, 0.88])
    noisy = brushed[:, :, None] * colour + rng.randint(-6, 7, size=(height, width, 3))
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _defect(seed: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A patch, a damaged hole or a long scratch, in coordinates of -1 to 1; striped."""
    if seed % 3 == 0:
        defect = np.hypot(x + 0.15, y - 0.2) < 0.2
    elif seed % 3 == 1:
        defect = np.hypot(x - 0.5, y) < 0.22
    else:
        defect = (np.abs(x - y * 0.3) < 0.06) & (np.abs(y) < 0.45)
    return defect
