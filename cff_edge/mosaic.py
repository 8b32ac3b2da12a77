"""Training images of four: 2 x 2 mosaics, as APRIL-GAN trains on MVTec AD.

Four times a defect folder of the same product (uniformly, the good parts being one folder), then
an image of it; the four are pasted at native size and resized to the network input together. They
are new images, so the backbone encodes them on the fly.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cff_edge.datasets import Sample, load_mask, resize_mask
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Mosaic:
    """Four images of one product: top left, top right, bottom left, bottom right."""

    tiles: tuple[Sample, Sample, Sample, Sample]

    @property
    def product(self) -> str:
        """The product of all four."""
        return self.tiles[0].product

    @property
    def is_defective(self) -> bool:
        """Whether any of the four shows a defect."""
        return any(tile.is_defective for tile in self.tiles)

    def load(self, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return image [height,width,3] and mask [height,width].

        Tiles of another size than the first are resized to it.

        Raises
        ------
        ImageError, DatasetError
            If an image or a mask cannot be used.
        """
        first = load_image(self.tiles[0].path)
        h, w = first.shape[:2]
        fit = Preprocessing(h, w)
        images = [first, *(fit(load_image(tile.path)) for tile in self.tiles[1:])]
        masks = [load_mask(tile, h, w) for tile in self.tiles]
        image, mask = _paste(images), _paste(masks)
        return Preprocessing(height, width)(image), resize_mask(mask, height, width)


def _paste(tiles: Sequence[NDArray[T]]) -> NDArray[T]:
    """Join four arrays [h,w,...] to one [2h,2w,...]."""
    top, bottom = np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)
    return np.concatenate([top, bottom])


class MosaicPool:
    """The images that mosaics are drawn from, by product and defect."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by_product: dict[str, dict[str, list[Sample]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for sample in samples:
            self._by_product[sample.product][sample.defect].append(sample)

    def draw(self, product: str, rng: np.random.Generator) -> Mosaic:
        """Draw four images of a product, with replacement."""
        folders = list(self._by_product[product].values())

        def tile() -> Sample:
            folder = folders[rng.integers(len(folders))]
            return folder[rng.integers(len(folder))]

        return Mosaic((tile(), tile(), tile(), tile()))
