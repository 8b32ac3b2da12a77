"""A GPU's memory, streams, events and graphs behind one small protocol.

Two packages can stand behind it: cuda-python (CUDA 12 and 13) and PyCUDA (older JetPack). Neither
is imported before `open_device`. Nothing in this package has run on a GPU yet: see `docs/gpu.md`.
"""

from cff_runtime.cuda.arrays import DeviceImage, read_device_image
from cff_runtime.cuda.opening import PACKAGES, open_device
from cff_runtime.cuda.protocol import CudaDevice, PinnedArray

__all__ = [
    "PACKAGES",
    "CudaDevice",
    "DeviceImage",
    "PinnedArray",
    "open_device",
    "read_device_image",
]
