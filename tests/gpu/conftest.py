"""What the tests on a GPU share. Where there is none they are skipped, and it is said aloud."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cff_runtime import Bundle
from cff_runtime.backends import open_backend
from cff_runtime.cuda import PACKAGES, open_device
from cff_runtime.engines import FLAVOURS, EngineSettings, build_bundle_engines, find_gpu
from cff_runtime.engines.flavours import load_flavour
from cff_runtime.errors import MissingDependencyError

_SKIPPED: dict[str, int] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note why a GPU test was skipped."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and item.get_closest_marker("gpu") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        _SKIPPED[reason] = _SKIPPED.get(reason, 0) + 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say it, whatever the verbosity."""
    for reason, n_tests in _SKIPPED.items():
        terminalreporter.write_line(f"{n_tests} GPU tests did not run: {reason}", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Any:
    """The GPU of this box."""
    found = find_gpu()
    if found is None:
        pytest.skip("this box has no NVIDIA GPU, or no driver for it")
    return found


@pytest.fixture(scope="session", params=sorted(PACKAGES))
def cuda_package(request: pytest.FixtureRequest, gpu: Any) -> str:
    """Each package for device memory that is installed."""
    try:
        open_device(request.param).close()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture(scope="session", params=sorted(FLAVOURS))
def flavour(request: pytest.FixtureRequest, gpu: Any) -> str:
    """Each TensorRT that is installed."""
    try:
        load_flavour(request.param)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture(scope="session")
def engines(flavour: str, lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this GPU's engines of the small bundle."""
    folder: Path = tmp_path_factory.mktemp(f"engines_{flavour}")
    build_bundle_engines(lite_bundle, EngineSettings(flavour), folder=folder)
    return folder


@pytest.fixture
def open_tensorrt(flavour: str, engines: Path, lite_bundle: Bundle) -> Any:
    """Return ``open_tensorrt(**options)``; what it opened is closed at the end."""
    opened: list[Any] = []

    def make(**options: Any) -> Any:
        options = {"flavour": flavour, "engines": str(engines), **options}
        opened.append(open_backend("tensorrt", lite_bundle, options))
        return opened[-1]

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture(scope="session")
def reference(lite_bundle: Bundle) -> Any:
    """ONNX Runtime on the CPU, in fp32."""
    return open_backend("onnxruntime", lite_bundle, {})


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def unit_rows() -> Callable[..., NDArray[np.float32]]:
    """Return ``unit_rows(seed, n_rows, width)``."""

    def make(seed: int, n_rows: int, width: int) -> NDArray[np.float32]:
        rows = np.random.default_rng(seed).normal(size=(n_rows, width))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return make
