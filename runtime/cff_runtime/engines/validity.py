"""TensorRT's own opinion of an engine's header, where it has one to give.

`Runtime.get_engine_validity` (TensorRT-RTX from 1.1) means something on a machine with a GPU only;
without a driver it calls every engine invalid.
"""

from typing import Any

from cff_runtime.engines.flavours import load_flavour
from cff_runtime.engines.gpu import find_gpu
from cff_runtime.engines.logs import collected_log, summarize
from cff_runtime.engines.record import BuiltEngine


def invalidity(engine: BuiltEngine) -> str | None:
    """Say why TensorRT would refuse an engine on this box; None if it would not, or cannot tell.

    An engine that was built here for other GPUs is not asked about: its key says whom it is for.

    Raises
    ------
    MissingDependencyError
        If this box has a GPU and not the engine's TensorRT.
    """
    gpu = find_gpu()
    if gpu is None or gpu.compute_capability not in engine.key.compute_capabilities:
        return None
    flavour = load_flavour(engine.key.flavour)
    with collected_log(flavour) as build_log:
        runtime = flavour.trt.Runtime(build_log.logger)
        if not hasattr(runtime, "get_engine_validity"):
            return None
        with engine.path.open("rb") as file:
            header = file.read(getattr(runtime, "engine_header_size", -1))
        validity, diagnostics = runtime.get_engine_validity(header)
        if validity != flavour.trt.EngineValidity.INVALID:
            return None
        reasons = _names(flavour.trt, int(diagnostics)) or summarize(build_log.errors)
    return f"is refused by {flavour.title} on this box: {reasons or 'no reason given'}"


def _names(trt: Any, diagnostics: int) -> str:
    members = getattr(getattr(trt, "EngineInvalidityDiagnostics", None), "__members__", {})
    names = [name for name, bit in members.items() if diagnostics & int(bit)]
    return ", ".join(name.lower().replace("_", " ") for name in names)
