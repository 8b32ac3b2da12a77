"""A backend that notes what its calls take, where an inspection's own stages do not tell it.

`Inspector` times encoding and searching as a whole. What a device copies is inside: features come
to the host with `download`, a call of its own that can be timed by the wall clock, because it
returns an array of the host. The image's way to the device is inside `encode`; a backend that times
it with events tells it as `host_to_device` in `times_ms`. What no backend tells stays unknown.
"""

import threading
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_runtime.backends import DEFAULT_BACKEND, Backend, Encoding

TO_DEVICE, TO_HOST = "host_to_device", "device_to_host"
# providers of ONNX Runtime whose features stay on a device; a plug-in's stay on the host
_DEVICE_PROVIDERS = ("cuda", "tensorrt")


class TimedBackend:
    """Passes every call on to a backend; each thread has times of its own.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._local = threading.local()

    def encode(self, image: NDArray[np.uint8], text: NDArray[np.float32]) -> Encoding:
        """As `Backend.encode`."""
        encoding = self._backend.encode(image, text)
        self._add_device_times(("encode", TO_DEVICE, TO_HOST))
        return encoding

    def upload_bank(self, bank: NDArray[np.float32]) -> Any:
        """As `Backend.upload_bank`."""
        return self._backend.upload_bank(bank)

    def search(self, stage: int, features: Any, bank: Any) -> NDArray[np.float32]:
        """As `Backend.search`."""
        nearest = self._backend.search(stage, features, bank)
        self._add_device_times(("search",))
        return nearest

    def download(self, features: Any) -> NDArray[np.float32]:
        """As `Backend.download`, timed."""
        start_ns = perf_counter_ns()
        array = self._backend.download(features)
        self._add("download", (perf_counter_ns() - start_ns) / 1e6)
        return array

    def take_times_ms(self) -> dict[str, float]:
        """Return what this thread's calls took since it was last asked."""
        times: dict[str, float] = getattr(self._local, "times_ms", {})
        self._local.times_ms = {}
        return times

    def close(self) -> None:
        """Close the backend if it is one that can be closed."""
        close = getattr(self._backend, "close", None)
        if close is not None:
            close()

    def _add_device_times(self, names: tuple[str, ...]) -> None:
        told: Mapping[str, float] = getattr(self._backend, "times_ms", {})
        for name in names:
            if name in told:
                self._add(f"on_{name}", told[name])

    def _add(self, name: str, milliseconds: float) -> None:
        times: dict[str, float] | None = getattr(self._local, "times_ms", None)
        if times is None:
            times = self._local.times_ms = {}
        times[name] = times.get(name, 0.0) + milliseconds


def is_on_device(backend: str, options: Mapping[str, Any]) -> bool:
    """Return whether features are in a device's memory after encoding."""
    return backend != DEFAULT_BACKEND or _provider(options) in _DEVICE_PROVIDERS


def copy_reasons(
    backend: str, options: Mapping[str, Any], told: Mapping[str, float]
) -> dict[str, str]:
    """Return why a copy is not told apart; empty where both are.

    Parameters
    ----------
    backend, options
        As in `Inspector.open`.
    told : mapping
        What `TimedBackend.take_times_ms` gave.
    """
    if backend == DEFAULT_BACKEND and _provider(options) == "cpu":
        nothing = "nothing is copied on a CPU"
        return {TO_DEVICE: nothing, TO_HOST: nothing}
    if not is_on_device(backend, options):
        inside = "inside `encode` and `search`: buffers on the host"
        return {TO_DEVICE: inside, TO_HOST: inside}
    reasons = {}
    if f"on_{TO_DEVICE}" not in told:
        reasons[TO_DEVICE] = (
            "inside `encode`: part of ONNX Runtime's run"
            if backend == DEFAULT_BACKEND
            else "inside `encode`: its events enclose the copy"
        )
    if "download" not in told:
        reasons[TO_HOST] = "no features were downloaded"
    return reasons


def _provider(options: Mapping[str, Any]) -> str:
    return str(options.get("provider", "cpu"))
