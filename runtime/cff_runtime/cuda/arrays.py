"""Images that are on the GPU already, by the CUDA Array Interface, version 3.

The interface (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) is what CuPy,
Numba, PyTorch and PyNvVideoCodec speak. Its `stream` says what a consumer must wait for: nothing
if there is none, else that stream; 1 is the legacy default stream, 2 the per-thread one, 0 is
forbidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cff_runtime.errors import ImageError

VERSION = 3
_UINT8 = "|u1"


@dataclass(frozen=True)
class DeviceImage:
    """An image [H,W,3], uint8, C-contiguous, in device memory.

    Attributes
    ----------
    address : int
    stream : int or None
        What wrote it; None where nothing needs to be waited for.
    owner : object
        Keeps the memory alive.
    """

    address: int
    stream: int | None
    owner: Any


def read_device_image(image: Any, shape: tuple[int, int, int]) -> DeviceImage:
    """Check an object with ``__cuda_array_interface__`` and return where its pixels are.

    Parameters
    ----------
    image : object
    shape : tuple of int
        [H,W,3] that it must have.

    Raises
    ------
    ImageError
        If the interface is of another version, or the image of another dtype, shape or layout.
    """
    facts: Mapping[str, Any] = image.__cuda_array_interface__
    version = facts.get("version")
    if type(version) is not int or version < VERSION:
        raise ImageError(
            f"`__cuda_array_interface__` must be of version {VERSION}, which names a stream, "
            f"got {version!r:.40}"
        )
    typestr, found = facts.get("typestr"), facts.get("shape")
    if typestr not in (_UINT8, "<u1", ">u1", "=u1"):
        raise ImageError(f"image on the GPU must be uint8 ({_UINT8}), got {typestr!r:.40}")
    if not isinstance(found, tuple) or found != shape:
        raise ImageError(
            f"image on the GPU must have the encoder's shape {shape}, got {found!r:.60}; "
            "resize it as the bundle's preprocessing says"
        )
    strides = facts.get("strides")
    if strides is not None and tuple(strides) != (shape[1] * 3, 3, 1):
        raise ImageError(
            f"image on the GPU must be C-contiguous, strides {(shape[1] * 3, 3, 1)} in bytes, "
            f"got {strides!r:.60}; copy it first"
        )
    if facts.get("mask") is not None:
        raise ImageError("image on the GPU must have no mask, got one")
    return DeviceImage(_address(facts.get("data")), _stream(facts.get("stream")), image)


def _address(data: Any) -> int:
    address = data[0] if isinstance(data, tuple) and data else None
    if type(address) is not int or address <= 0:
        raise ImageError(f"`data` must be a device address and a flag, got {data!r:.60}")
    return address


def _stream(stream: Any) -> int | None:
    if stream is not None and (type(stream) is not int or stream <= 0):
        raise ImageError(
            f"`stream` must be None, 1, 2 or a CUDA stream, 0 is ambiguous; got {stream!r:.40}"
        )
    return stream
