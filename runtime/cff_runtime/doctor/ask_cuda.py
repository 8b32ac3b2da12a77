"""Print as JSON what the CUDA driver library says. Run in a process of its own: see `Box.ask`."""

import ctypes
import json
import sys
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def main() -> None:
    """Ask libcuda for its version and its devices."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        answer: dict[str, Any] = {"error": str(error)}
    else:
        answer = _describe(library)
    sys.stdout.write(json.dumps(answer))


def _describe(library: Any) -> dict[str, Any]:
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    answer: dict[str, Any] = {"driver_version": version.value, "devices": []}
    status = library.cuInit(0)
    if status != 0:
        answer["init_status"] = status
        return answer
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    answer["devices"] = [_device(library, index) for index in range(count.value)]
    return answer


def _device(library: Any, index: int) -> dict[str, Any]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{major.value}.{minor.value}",
        "memory_bytes": memory.value,
    }


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules must hide no others
    main()
