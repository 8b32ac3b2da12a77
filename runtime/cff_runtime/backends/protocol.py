"""What the runtime needs from an inference backend."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoded image; features stay where the backend keeps them.

    Attributes
    ----------
    features : tuple of S device handles
        Each a float array of shape (1, N_s, C_s) with unit rows.
    map : ndarray of shape (H, W), float32
    score : float or None
        None where the encoder gives none.
    """

    features: tuple[Any, ...]
    map: NDArray[np.float32]
    score: float | None


class Backend(Protocol):
    """Runs a bundle's graphs. All methods may be called from several threads at once."""

    def encode(self, image: NDArray[np.uint8], condition: NDArray[np.float32]) -> Encoding:
        """Encode an image [H,W,3], uint8, with a condition of the manifest's shape, float32."""
        ...

    def upload_bank(self, bank: NDArray[np.float32]) -> Any:
        """Put a memory bank [M_s,C_s] on the device, cut into chunks; return its handle."""
        ...

    def search(self, stage: int, features: Any, bank: Any) -> NDArray[np.float32]:
        """Return the largest cosine to the bank, [N_s], float32; one chunk at a time."""
        ...

    def download(self, features: Any) -> NDArray[np.float32]:
        """Return features as a float32 array [N_s,C_s] on the host."""
        ...
