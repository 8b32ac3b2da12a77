"""TensorRT engines: a cache that each box builds from a bundle's ONNX graphs.

Importing this package loads no TensorRT; the flavour is imported when an engine is looked for or
built.
"""

from cff_runtime.engines.builder import build_engine, engine_key
from cff_runtime.engines.bundle_engines import (
    ENGINES_FOLDER,
    WantedEngine,
    build_bundle_engines,
    check_bundle_engines,
    wanted_engines,
)
from cff_runtime.engines.flavours import FLAVOURS
from cff_runtime.engines.gpu import Gpu, find_gpu
from cff_runtime.engines.key import EngineKey, EngineSettings, static
from cff_runtime.engines.opening import open_or_build
from cff_runtime.engines.progress import Progress
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import EngineStore, Lookup

__all__ = [
    "ENGINES_FOLDER",
    "FLAVOURS",
    "BuiltEngine",
    "EngineKey",
    "EngineSettings",
    "EngineStore",
    "Gpu",
    "Lookup",
    "Progress",
    "WantedEngine",
    "build_bundle_engines",
    "build_engine",
    "check_bundle_engines",
    "engine_key",
    "find_gpu",
    "open_or_build",
    "static",
    "wanted_engines",
]
