"""The two TensorRT packages behind one name each, and what the installed version can do.

``tensorrt-rtx`` builds on a machine without a GPU, for compute capabilities given by name. Built
here: version 1.7. ``tensorrt`` (Jetson, data centre) builds for the GPU in the box only. It cannot
be installed here and has not been run: its code follows NVIDIA's documentation of 8.6 to 11 and is
tested against a fake module.

Nothing is decided by version numbers where the module itself can be asked. Two things cannot: a
network without a batch dimension is the default before 10, and from 11 every network is strongly
typed, with or without the flag.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cff_runtime.engines.gpu import Gpu
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError

# name -> (package, extra that installs it, what people call it)
FLAVOURS = {
    "tensorrt": ("tensorrt", "cff-edge[tensorrt]", "TensorRT"),
    "tensorrt-rtx": ("tensorrt_rtx", "cff-edge[tensorrt-rtx]", "TensorRT-RTX"),
}
_FIRST_DEFAULT = (8, 0)  # Turing (7.5) is built for only when it is named, as NVIDIA does


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT package.

    Attributes
    ----------
    name : str
        Key of `FLAVOURS`.
    trt : module
        The package; of no type that a checker knows.
    version : str
    """

    name: str
    trt: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version for people."""
        return f"{FLAVOURS[self.name][2]} {self.version}"

    @property
    def major(self) -> int:
        """First number of the version."""
        return int(self.version.partition(".")[0])

    @property
    def is_strongly_typed(self) -> bool:
        """Whether a layer's precision is what the graph says and nothing else."""
        return self._has_strong_flag or self.major >= 11

    @property
    def network_flags(self) -> int:
        """Argument of ``create_network``."""
        members = self.trt.NetworkDefinitionCreationFlag
        flags = 0
        if self._has_strong_flag:
            flags |= 1 << int(members.STRONGLY_TYPED)
        if self.major < 10 and hasattr(members, "EXPLICIT_BATCH"):
            flags |= 1 << int(members.EXPLICIT_BATCH)
        return flags

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Compute capabilities that can be named, ``8.6`` -> member; empty for ``tensorrt``."""
        members = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        named = {_dotted(name): member for name, member in members.items() if name[2:].isdigit()}
        return dict(sorted(named.items(), key=lambda item: _numbers(item[0])))

    @property
    def _has_strong_flag(self) -> bool:
        return hasattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def require_flavour(name: str) -> None:
    """Check the name of a flavour.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    if name not in FLAVOURS:
        raise UsageError(f"`flavour` must be one of {', '.join(FLAVOURS)}, got {name!r}")


def load_flavour(name: str) -> Flavour:
    """Import the package of a flavour.

    Raises
    ------
    UsageError
        If there is none of that name.
    MissingDependencyError
        If the package, or a library that it needs, is not installed.
    """
    require_flavour(name)
    package, extra, _ = FLAVOURS[name]
    try:
        trt = importlib.import_module(package)
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise MissingDependencyError(
            f"engines of `{name}` need the package `{package}`, which cannot be imported "
            f"({error}); install {extra} with pip"
        ) from error
    return Flavour(name, trt, str(trt.__version__))


def choose_capabilities(
    flavour: Flavour, wanted: Sequence[str], gpu: Gpu | None
) -> tuple[str, ...]:
    """Return the compute capabilities that an engine is built for, in ascending order.

    Those that are `wanted`; else the GPU's own; else, on a machine without a GPU, all that the
    flavour offers from 8.0 on.

    Raises
    ------
    UsageError
        If one is named for a flavour that cannot choose, or that it does not offer.
    BackendError
        If the flavour needs a GPU and there is none, or does not support this one.
    """
    offered = flavour.capabilities
    if flavour.name == "tensorrt":
        return _own_capability(wanted, gpu)
    if wanted:
        unknown = [capability for capability in wanted if capability not in offered]
        if unknown:
            raise UsageError(
                f"compute capability must be one that {flavour.title} offers, "
                f"{', '.join(offered)}, got {', '.join(unknown)}"
            )
        return tuple(sorted(set(wanted), key=_numbers))
    if gpu is None:
        return tuple(name for name in offered if _numbers(name) >= _FIRST_DEFAULT)
    if gpu.compute_capability not in offered:
        raise BackendError(
            f"{flavour.title} must offer the compute capability of this GPU ({gpu.name}, "
            f"{gpu.compute_capability}), it offers {', '.join(offered)}; use `tensorrt`"
        )
    return (gpu.compute_capability,)


def _own_capability(wanted: Sequence[str], gpu: Gpu | None) -> tuple[str, ...]:
    if wanted:
        raise UsageError(
            "compute capability must not be named with `tensorrt`, which builds for the GPU in "
            f"the box only, got {', '.join(wanted)}; leave it out, or use `tensorrt-rtx`"
        )
    if gpu is None:
        raise BackendError(
            "`tensorrt` must have an NVIDIA GPU and its driver to build an engine, none was found; "
            "build on the box itself, or use `tensorrt-rtx`, which needs none to build"
        )
    return (gpu.compute_capability,)


def _dotted(member: str) -> str:
    """Return ``8.6`` for ``SM86`` and ``12.0`` for ``SM120``."""
    return f"{member[2:-1]}.{member[-1]}"


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)
