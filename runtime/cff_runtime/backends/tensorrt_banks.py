"""Memory banks on the device, under a budget: the one that was used longest ago leaves first.

A scorer's engine takes exactly 1024 rows, so a bank is padded: its last chunk repeats its first
row, which changes no maximum. The bank's rows stay in host memory, from where a bank that left is
uploaded again when it is searched.

Nothing here locks. The backend calls under its own lock, while the stream is idle; only
`DeviceBank`'s end may come at any time and in any thread, and it does no more than leave a note.
"""

import itertools
import logging
import weakref
from collections import OrderedDict, deque

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends.device_buffers import MIB, Buffers, mebibytes
from cff_runtime.backends.device_stream import DeviceStream
from cff_runtime.engines.key import BANK_ROWS
from cff_runtime.errors import BackendError

log = logging.getLogger(__name__)

_ITEM_BYTES = 4


class DeviceBank:
    """A memory bank that the device holds, or gets again when it is searched.

    Attributes
    ----------
    rows : ndarray of shape (M_s, C_s), float32
        On the host; must not change.
    n_chunks : int
    n_bytes : int
        On the device.
    """

    def __init__(self, rows: NDArray[np.float32], owner: object, number: int) -> None:
        self.rows, self.owner, self.number = rows, owner, number
        self.width = rows.shape[1]
        self.n_chunks = -(-len(rows) // BANK_ROWS)
        self.chunk_bytes = BANK_ROWS * self.width * _ITEM_BYTES
        self.n_bytes = self.n_chunks * self.chunk_bytes


class ResidentBanks:
    """The banks of one backend.

    Parameters
    ----------
    stream : DeviceStream
    buffers : Buffers
    widths : set of int
        C_s that there are.
    budget_bytes : int
        Most device memory that banks take together.
    """

    def __init__(
        self,
        stream: DeviceStream,
        buffers: Buffers,
        widths: set[int],
        budget_bytes: int,
    ) -> None:
        self._device, self._stream, self._buffers = stream.device, stream.stream, buffers
        self._widths, self._budget_bytes = widths, budget_bytes
        self._staging = buffers.pin(BANK_ROWS * max(widths) * _ITEM_BYTES)
        self._resident: OrderedDict[int, tuple[int, int]] = OrderedDict()  # address, n_bytes
        self._ended: deque[int] = deque()
        self._numbers = itertools.count()
        self._has_warned = False

    @property
    def n_bytes(self) -> int:
        """Device memory that banks take now."""
        return sum(n_bytes for _, n_bytes in self._resident.values())

    def add(self, rows: NDArray[np.float32]) -> DeviceBank:
        """Upload a bank [M_s,C_s].

        Raises
        ------
        BackendError
            If it is no bank of these stages, or can never fit into the budget.
        """
        if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] not in self._widths:
            raise BackendError(
                "a bank must have rows as wide as a stage's features "
                f"({', '.join(map(str, sorted(self._widths)))}), got shape {rows.shape}"
            )
        bank = DeviceBank(np.ascontiguousarray(rows, dtype=np.float32), self, next(self._numbers))
        if bank.n_bytes > self._budget_bytes:
            raise BackendError(
                f"a bank of {len(rows)} x {bank.width} takes {mebibytes(bank.n_bytes)} on the "
                f"GPU, `memory_mb` allows {self._budget_bytes // MIB} MiB; raise `memory_mb`, or "
                "enrol with fewer rows (`max_bank`)"
            )
        weakref.finalize(bank, self._ended.append, bank.number)
        self.chunks(bank)
        return bank

    def chunks(self, bank: DeviceBank) -> list[int]:
        """Return the addresses of a bank's chunks, uploaded again if it had left."""
        if bank.number not in self._resident:
            self._upload(bank)
        self._resident.move_to_end(bank.number)
        start = self._resident[bank.number][0]
        return [start + index * bank.chunk_bytes for index in range(bank.n_chunks)]

    def free_ended(self) -> None:
        """Give back the memory of banks that nobody holds any more."""
        while self._ended:
            self._leave(self._ended.popleft())

    def _upload(self, bank: DeviceBank) -> None:
        while self._resident and self.n_bytes + bank.n_bytes > self._budget_bytes:
            self._evict()
        address = self._buffers.try_allocate(bank.n_bytes)
        while address is None and self._resident:
            self._evict()
            address = self._buffers.try_allocate(bank.n_bytes)
        if address is None:
            address = self._buffers.allocate(bank.n_bytes, f"a bank of {len(bank.rows)} rows")
        self._resident[bank.number] = (address, bank.n_bytes)
        try:
            for index in range(bank.n_chunks):
                self._upload_chunk(bank, index, address + index * bank.chunk_bytes)
        except BaseException:
            self._ended.append(bank.number)  # freed once the backend has seen the stream idle
            raise

    def _upload_chunk(self, bank: DeviceBank, index: int, address: int) -> None:
        staging = self._staging[: bank.chunk_bytes]
        rows = bank.rows[index * BANK_ROWS : (index + 1) * BANK_ROWS]
        chunk = staging.view(np.float32).reshape(BANK_ROWS, bank.width)
        chunk[: len(rows)] = rows
        chunk[len(rows) :] = bank.rows[0]
        self._device.to_device(address, staging, self._stream)
        self._device.synchronize(self._stream)  # the next chunk wants the same staging memory

    def _evict(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "note: the memory banks do not fit into the GPU's share together (%s are there); "
                "they are uploaded again and again, raise `memory_mb`",
                mebibytes(self.n_bytes),
            )
        self._leave(next(iter(self._resident)))

    def _leave(self, number: int) -> None:
        entry = self._resident.pop(number, None)
        if entry is not None:
            self._buffers.free(entry[0])
