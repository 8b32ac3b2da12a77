"""What was found on a box. Every fact is a `Reading`: a value, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from cff_runtime.doctor.box import Reading


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel, or one that it could be set to."""

    id: int
    name: str


@dataclass(frozen=True)
class Gpu:
    """One GPU; None is what neither the driver library nor nvidia-smi told.

    Attributes
    ----------
    compute_capability : str or None
        Such as ``8.7``.
    memory_bytes : int or None
    persistence : bool or None
        Whether the driver stays loaded when nobody uses it.
    clock_mhz, clock_max_mhz : int or None
        Of the multiprocessors.
    """

    name: str
    compute_capability: str | None = None
    memory_bytes: int | None = None
    persistence: bool | None = None
    clock_mhz: int | None = None
    clock_max_mhz: int | None = None


@dataclass(frozen=True)
class OnnxRuntime:
    """The installed ONNX Runtime.

    Attributes
    ----------
    providers : tuple of str
        Execution providers that it was built with.
    load_errors : mapping
        cuda, tensorrt, nv-tensorrt-rtx -> what the loader says of that provider's library, "" if
        it loads; a provider built in has no entry.
    library_folders : mapping
        Name of a library of NVIDIA's Python packages -> its folder.
    """

    version: str
    providers: tuple[str, ...]
    load_errors: Mapping[str, str]
    library_folders: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """A box at one moment.

    Attributes
    ----------
    machine
        os_name : such as ``Ubuntu 22.04.5 LTS``; distribution : its short name, ``ubuntu``;
        container : of which kind; board : name of a single-board computer.
    jetson
        l4t : such as ``36.4.3``; jetpack : of the package ``nvidia-jetpack``; power_mode,
        power_modes : of nvpmodel.
    memory
        memory_bytes : of the machine or the control group, the smaller; disk_free_bytes : where
        the bundle is.
    gpu
        pci_gpus : NVIDIA devices on the bus, also without driver; driver : release of the NVIDIA
        driver; nvidia_smi : "works" or why not; cuda_driver : newest CUDA that it runs, such as
        ``13.0``; cuda_toolkit : installed toolkit.
    packages
        installed Python packages, name -> version; system_tensorrt : of the Debian packages.
    """

    os_name: Reading[str]
    distribution: Reading[str]
    kernel: Reading[str]
    architecture: str
    container: Reading[str]
    board: Reading[str]
    cpu: Reading[str]
    cpu_cores: Reading[int]
    cpu_governor: Reading[str]
    memory_bytes: Reading[int]
    memory_available_bytes: Reading[int]
    disk_free_bytes: Reading[int]
    l4t: Reading[str]
    jetpack: Reading[str]
    power_mode: Reading[PowerMode]
    power_modes: Reading[tuple[PowerMode, ...]]
    pci_gpus: int
    nvidia_smi: Reading[str]
    driver: Reading[str]
    cuda_driver: Reading[str]
    cuda_toolkit: Reading[str]
    gpus: Reading[tuple[Gpu, ...]]
    system_tensorrt: Reading[str]
    system_tensorrt_python: bool
    python_version: str
    in_virtual_environment: bool
    packages: Mapping[str, str]
    onnxruntime: Reading[OnnxRuntime]

    @property
    def gpu(self) -> Gpu | None:
        """The first GPU, which the backends use."""
        return self.gpus.value[0] if self.gpus.value else None

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson, by its release of Jetson Linux or its name."""
        return self.l4t.value is not None or "jetson" in (self.board.value or "").lower()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts for JSON; one without value is ``{"unknown": reason}``."""
        answer: dict[str, Any] = _plain(self)
        return answer


def _plain(value: Any) -> Any:
    if isinstance(value, Reading):
        return {"unknown": value.reason} if value.value is None else _plain(value.value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
