"""A backend that encodes an image once, however often it is enrolled and inspected."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import Backend, Encoding


class RememberingBackend:
    """Another backend's answers; encodings are kept on the host."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._encodings: dict[bytes, Encoding] = {}

    def encode(self, image: NDArray[np.uint8], condition: NDArray[np.float32]) -> Encoding:
        """Encode an image, or return what was found for it before."""
        digest = hashlib.sha256(image.tobytes() + condition.tobytes()).digest()
        if digest not in self._encodings:
            found = self._backend.encode(image, condition)
            found.map.flags.writeable = False  # it is handed out again
            self._encodings[digest] = found
        return self._encodings[digest]

    def upload_bank(self, bank: NDArray[np.float32]) -> Any:
        """Pass it on."""
        return self._backend.upload_bank(bank)

    def search(self, stage: int, features: Any, bank: Any) -> NDArray[np.float32]:
        """Pass it on."""
        return self._backend.search(stage, features, bank)

    def download(self, features: Any) -> NDArray[np.float32]:
        """Pass it on."""
        return self._backend.download(features)
