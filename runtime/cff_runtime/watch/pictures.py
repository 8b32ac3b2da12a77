"""Pictures of rejected parts, within a limit of their own; the oldest go first."""

from collections import deque
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

REJECTS = "rejects"


def picture_name(seq: int) -> str:
    """Return where the picture of a record lies, below the source's records."""
    return f"{REJECTS}/{seq:012d}.png"


class RejectPictures:
    """Writes PNG files of whole frames.

    Parameters
    ----------
    records : Path
        Folder of the source's records.
    limit_bytes : int
    """

    def __init__(self, records: Path, limit_bytes: int) -> None:
        self._records, self._limit_bytes = records, limit_bytes
        folder = records / REJECTS
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("[0-9]*.png"))
        self._files = deque((path, path.stat().st_size) for path in files)
        self._n_bytes = sum(size for _, size in self._files)

    def save(self, seq: int, pixels: NDArray[np.uint8]) -> None:
        """Write the picture of a record; [h,w,3], RGB.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        there, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        if not there:
            raise OSError(f"picture of record {seq} cannot be encoded")
        while self._files and self._n_bytes + len(data) > self._limit_bytes:
            path, size = self._files.popleft()
            self._n_bytes -= size
            path.unlink(missing_ok=True)
        if len(data) > self._limit_bytes:
            return
        path = self._records / picture_name(seq)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data.tobytes())
        temporary.replace(path)
        self._files.append((path, len(data)))
        self._n_bytes += len(data)
