"""Device and pinned memory that is given back together, each piece once."""

import math
from collections.abc import Callable
from functools import partial

from cff_runtime.cuda import CudaDevice, PinnedArray
from cff_runtime.errors import BackendError

MIB = 1 << 20
ALIGNMENT = 256  # bytes, of what cudaMalloc returns; tensors inside a block keep to it


def mebibytes(n_bytes: int) -> str:
    """Return a size for people."""
    return f"{n_bytes / MIB:.1f} MiB"


def aligned(n_bytes: int) -> int:
    """Return the size rounded up so that what follows is aligned."""
    return math.ceil(n_bytes / ALIGNMENT) * ALIGNMENT


class Buffers:
    """What was allocated on a device and not yet given back."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._addresses: list[int] = []
        self._pinned: list[PinnedArray] = []

    def try_allocate(self, n_bytes: int) -> int | None:
        """Return the address of new device memory; None if the device has too little."""
        address = self._device.allocate(n_bytes)
        if address is not None:
            self._addresses.append(address)
        return address

    def allocate(self, n_bytes: int, purpose: str) -> int:
        """Return the address of new device memory.

        Raises
        ------
        BackendError
            If there is too little.
        """
        address = self.try_allocate(n_bytes)
        if address is None:
            raise BackendError(
                f"the GPU must have {mebibytes(n_bytes)} free for {purpose}, it has less; "
                "close other programs that use it, or lower `memory_mb`"
            )
        return address

    def pin(self, n_bytes: int) -> PinnedArray:
        """Return new page-locked host memory."""
        array = self._device.allocate_pinned(n_bytes)
        self._pinned.append(array)
        return array

    def free(self, address: int) -> None:
        """Give device memory back; not again, even if that fails."""
        self._addresses.remove(address)
        self._device.free(address)

    def steps(self) -> list[Callable[[], None]]:
        """Return the calls that give everything back, for a caller that survives failures."""
        addresses, pinned = self._addresses, self._pinned
        self._addresses, self._pinned = [], []
        return [
            *(partial(self._device.free, address) for address in addresses),
            *(partial(self._device.free_pinned, array) for array in pinned),
        ]
