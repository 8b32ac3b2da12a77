"""From an image to the encoder's input, specified in numbers.

Pillow's bicubic resize with antialiasing to exactly H x W, aspect ratio not kept. In numbers:
cubic convolution with a = -0.5 and support 2, the support widened by the scale when an axis
shrinks, sample centres at half pixels, coefficients normalised to sum 1 and rounded to 22
fractional bits, the horizontal pass first, each pass rounded and clipped to 8 bits.
The two passes are asked of Pillow one by one: Pillow 13 chooses their order by the image's shape
(which moves grey levels), earlier releases always begin with the horizontal one.
Normalisation is not here: it is folded into the encoder graph, whose input is uint8.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cff_runtime.errors import BundleError
from cff_runtime.imaging import require_image


@dataclass(frozen=True)
class Preprocessing:
    """The only preprocessing there is, with its one free choice: H and W in pixels."""

    height: int
    width: int
    resample: str = "bicubic"
    cubic_a: float = -0.5
    antialias: bool = True
    keep_aspect: bool = False
    colour: str = "RGB"
    dtype: str = "uint8"

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an RGB image [h,w,3], uint8, to [H,W,3], uint8.

        Raises
        ------
        ImageError
            If `image` is not uint8 RGB of at least 16 x 16 px.
        """
        require_image(image)
        if image.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(image)
        wide = Image.fromarray(image).resize((self.width, image.shape[0]), Image.Resampling.BICUBIC)
        return np.asarray(wide.resize((self.width, self.height), Image.Resampling.BICUBIC))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as they stand in a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Read a manifest's entry; anything that this runtime does not do is refused.

        Raises
        ------
        BundleError
            If a field is missing, unknown or has another value than this runtime implements.
        """
        height, width = fields.get("height"), fields.get("width")
        for name, size in (("height", height), ("width", width)):
            if not isinstance(size, int) or not 16 <= size <= 8192:
                raise BundleError(f"`preprocessing.{name}` must be 16 to 8192 px, got {size!r:.80}")
        known = cls(height=int(height or 0), width=int(width or 0))
        for name, value in known.to_dict().items():
            if fields.get(name) != value:
                raise BundleError(
                    f"`preprocessing.{name}` must be {value!r}, got {fields.get(name)!r:.80}; "
                    "this bundle needs another version of the runtime"
                )
        unknown = sorted(set(fields) - set(known.to_dict()))
        if unknown:
            raise BundleError(
                f"`preprocessing` must have no other fields, got {', '.join(unknown):.80}; "
                "this bundle needs another version of the runtime"
            )
        return known
