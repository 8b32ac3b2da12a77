"""What will work: each backend x provider x precision, and each flavour of engine.

Pure functions. A route *works*, *would work after* a command, or *cannot*. A route over a GPU that
"works" is one that nothing found speaks against: none was run on a GPU by this project.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.backends import BACKENDS
from cff_runtime.doctor.facts import Facts
from cff_runtime.doctor.matrix import Matrix, at_least
from cff_runtime.doctor.mending import (
    Verdict,
    after,
    cannot,
    judge_driver,
    mend_library,
    mend_onnxruntime_cpu,
    mend_onnxruntime_gpu,
    works,
)
from cff_runtime.doctor.needs import MEBIBYTE, BundleNeeds
from cff_runtime.doctor.tensorrt_routes import FLAVOURS, judge_flavour, running_release

# provider of cff_runtime.backends.onnxruntime -> its name in ONNX Runtime
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nv-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
ALL_PRECISIONS = ("fp32", "fp16", "int8", "int8-qdq")
ENGINE = "engine"
_UNSEEN = "nothing found against it; not run on a GPU by this project"


@dataclass(frozen=True)
class Route:
    """One way to run the encoder.

    Attributes
    ----------
    backend : str
        ``onnxruntime``, or ``engine`` for building and running an engine.
    target : str
        Execution provider, or flavour of TensorRT.
    precision : str
    status : {'works', 'after', 'cannot'}
    reason : str
    command : str or None
        What makes it work, for ``after``.
    """

    backend: str
    target: str
    precision: str
    status: str
    reason: str
    command: str | None

    @property
    def name(self) -> str:
        """Backend and target, as in ``onnxruntime cuda``."""
        return f"{self.backend} {self.target}"

    def to_dict(self) -> dict[str, Any]:
        """Return the route, ready for JSON."""
        return asdict(self)


def find_routes(facts: Facts, needs: BundleNeeds | None, matrix: Matrix) -> list[Route]:
    """Judge every backend x provider x precision, and every flavour of engine.

    Without a bundle the precisions are all that `cff-export` can build.
    """
    precisions: Sequence[str] = ALL_PRECISIONS
    if needs is not None:
        precisions = [p.precision for p in needs.precisions]
    routes = []
    for provider in PROVIDERS:
        base = _judge_provider(facts, matrix, provider)
        for precision in precisions:
            verdict = _worst(
                base,
                _fit_precision(provider, precision, base),
                _fit_memory(facts, needs, provider, precision),
                _known_bad(facts, needs, matrix, "onnxruntime", provider, precision),
            )
            routes.append(Route("onnxruntime", provider, precision, *_plain(verdict)))
    for flavour in FLAVOURS:
        base = judge_flavour(facts, matrix, flavour)
        for precision in precisions:
            verdict = _worst(
                base,
                _fit_precision(flavour, precision, base),
                _fit_memory(facts, needs, flavour, precision),
                _known_bad(facts, needs, matrix, ENGINE, flavour, precision),
            )
            routes.append(Route(ENGINE, flavour, precision, *_plain(verdict)))
    return routes


def _plain(verdict: Verdict) -> tuple[str, str, str | None]:
    return verdict.status, verdict.reason, verdict.command


def _worst(*verdicts: Verdict | None) -> Verdict:
    """Return the first verdict that cannot, else the first that would after, else the last."""
    found = [verdict for verdict in verdicts if verdict is not None]
    for status in ("cannot", "after"):
        for verdict in found:
            if verdict.status == status:
                return verdict
    return found[-1]


def _judge_provider(facts: Facts, matrix: Matrix, provider: str) -> Verdict:
    runtime = facts.onnxruntime.value
    if provider == "cpu":
        return works("") if runtime is not None else mend_onnxruntime_cpu(facts)
    if facts.gpu is None:
        return judge_driver(facts, matrix)
    if runtime is None or PROVIDERS[provider] not in runtime.providers:
        if provider == "nv-tensorrt-rtx":
            return cannot(
                "no package has it built in, and the plug-in package must be registered by the "
                "program, which this runtime does not"
            )
        return mend_onnxruntime_gpu(facts, matrix)
    build = matrix.onnxruntime_of(runtime.version)
    newest_cuda = facts.cuda_driver.value
    if build is not None and newest_cuda and not at_least(newest_cuda, str(build.cuda)):
        mend = mend_onnxruntime_gpu(facts, matrix)
        return Verdict(
            mend.status,
            f"onnxruntime-gpu {runtime.version} is built for CUDA {build.cuda}, "
            f"the driver runs CUDA up to {newest_cuda}; {mend.reason}",
            mend.command,
        )
    error = runtime.load_errors.get(provider, "")
    if error:
        return mend_library(facts, matrix, error)
    return works(_UNSEEN)


def _fit_precision(target: str, precision: str, base: Verdict) -> Verdict | None:
    """Say what a precision means on a target; None where there is nothing to say."""
    if target == "cpu":
        if precision.startswith("fp16") and base.status == "works":
            return works("ONNX Runtime computes fp16 in fp32 on a CPU: no gain")
        return None
    if precision == "int8":
        return cannot("int8 is quantised dynamically, for the CPU; TensorRT takes int8-qdq")
    if precision.startswith("int8") and target == "cuda":
        return cannot("int8-qdq is for TensorRT and the CPU; the CUDA provider takes fp16")
    if precision.startswith("int8") and target.endswith("rtx") and base.status == "works":
        return works("the support matrix names weight-only int8; whether Q/DQ gains was not read")
    return None


def _fit_memory(
    facts: Facts, needs: BundleNeeds | None, target: str, precision: str
) -> Verdict | None:
    if needs is None:
        return None
    if target == "cpu" or facts.is_jetson:  # a Jetson's GPU takes the machine's memory
        n_bytes = needs.cpu_bytes(precision)
        free, what = facts.memory_available_bytes.value, "memory is free"
    else:
        n_bytes = needs.gpu_bytes(precision)
        free, what = (facts.gpu.memory_bytes if facts.gpu else None), "memory is on the GPU"
    if free is not None and n_bytes > free:
        return cannot(f"needs about {n_bytes // MEBIBYTE} MiB and {free // MEBIBYTE} MiB of {what}")
    return None


def _known_bad(
    facts: Facts,
    needs: BundleNeeds | None,
    matrix: Matrix,
    backend: str,
    target: str,
    precision: str,
) -> Verdict | None:
    """Say what was reported of engines of this release, precision and kind of encoder."""
    if needs is None or target not in FLAVOURS:
        return None
    capability = facts.gpu.compute_capability if facts.gpu else None
    rows = matrix.bad_rows(
        target, running_release(facts, target), precision, needs.is_transformer, capability
    )
    if not rows:
        return None
    reason = f"{rows[0].effect} ({rows[0].sources[0]}); {rows[0].advice}"
    options = f"--provider {target}"
    if backend == ENGINE:
        flavour = "" if target == "tensorrt" else f" --backend-option flavour={target}"
        options = f"--backend tensorrt{flavour}"
    if backend == ENGINE and "tensorrt" not in BACKENDS:
        return cannot(reason)
    path = shlex.quote(needs.path)
    return after(reason, f"cff-run verify {path} {options} --precision {precision}")
