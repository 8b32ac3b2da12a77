"""Which NVIDIA GPU is in this box, asked from the driver itself.

The driver's library is the one thing that every box with a GPU has, whatever Python packages are
installed. Only `cuInit` and questions about the device are called: no context is made and no
memory of the GPU is taken.
"""

import ctypes
from dataclasses import dataclass

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_CAPABILITY_MAJOR = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of CUDA's driver API
_CAPABILITY_MINOR = 76


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, such as ``Orin``, and compute capability, such as ``8.7``."""

    name: str
    compute_capability: str


def find_gpu(index: int = 0) -> Gpu | None:
    """Return the GPU of that number, as `CUDA_VISIBLE_DEVICES` counts them; None without one."""
    driver = _load_driver()
    if driver is None or driver.cuInit(0) != 0:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failures = (
        driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    )
    if failures:
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")


def _load_driver() -> ctypes.CDLL | None:
    for name in _DRIVERS:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
