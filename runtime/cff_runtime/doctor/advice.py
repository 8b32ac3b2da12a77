"""What a box is told: findings, each with the command that mends it. Pure functions."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cff_runtime.backends import BACKENDS
from cff_runtime.doctor.engine_files import EngineFile
from cff_runtime.doctor.facts import Facts, PowerMode
from cff_runtime.doctor.matrix import Conflict, Matrix, release_numbers
from cff_runtime.doctor.mending import judge_driver, mend_onnxruntime_cpu
from cff_runtime.doctor.needs import MEBIBYTE, BundleNeeds
from cff_runtime.doctor.routes import ENGINE, Route

OK, WARNING, PROBLEM = "ok", "warning", "problem"
_LEVELS = (PROBLEM, WARNING, OK)


@dataclass(frozen=True)
class Finding:
    """One thing to know about the box.

    Attributes
    ----------
    level : {'ok', 'warning', 'problem'}
    sentence, reason : str
        What is so, and why that matters or how it is known; the reason may be empty.
    command : str or None
        What mends it, for a shell.
    """

    level: str
    sentence: str
    reason: str = ""
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the finding, ready for JSON."""
        return asdict(self)


def advise(
    facts: Facts,
    needs: BundleNeeds | None,
    matrix: Matrix,
    routes: Sequence[Route],
    engines: Sequence[EngineFile] = (),
) -> list[Finding]:
    """Turn facts, needs, the matrix and the routes into findings, the worst first.

    Without a bundle `needs` is None.
    """
    found = [
        *_onnxruntime(facts, matrix),
        *_gpu(facts, matrix),
        *_jetson(facts, matrix),
        *_power(facts),
        *_routes(routes, needs),
        *_bundle(facts, needs, routes),
        *_engines(engines, needs),
    ]
    unique = _without_repeated_commands(found)
    return sorted(unique, key=lambda finding: _LEVELS.index(finding.level))


def can_run(routes: Sequence[Route]) -> bool:
    """Return whether a route works that `cff-run` can take now."""
    return any(route.status == "works" and _is_taken(route) for route in routes)


def _is_taken(route: Route) -> bool:
    """Whether a backend of this release takes a route; engines need one of their own."""
    return route.backend != ENGINE or "tensorrt" in BACKENDS


def _without_repeated_commands(findings: Sequence[Finding]) -> list[Finding]:
    kept: list[Finding] = []
    commands: set[str] = set()
    for finding in findings:
        if finding.command is None or finding.command not in commands:
            kept.append(finding)
            commands |= {finding.command} if finding.command else set()
    return kept


def _onnxruntime(facts: Facts, matrix: Matrix) -> Iterator[Finding]:
    for conflict in matrix.conflicts:
        names = _installed(facts, conflict.packages)
        if len(names) == len(conflict.packages):
            yield _conflict(facts, names, conflict)
    runtime = facts.onnxruntime.value
    if runtime is None:
        verdict = mend_onnxruntime_cpu(facts)
        yield Finding(PROBLEM, verdict.reason, "nothing runs without it", verdict.command)
        return
    yield Finding(OK, f"ONNX Runtime {runtime.version} runs on the CPU")


def _installed(facts: Facts, names: Sequence[str]) -> list[str]:
    """Return the installed packages that bear these names, with or without a CUDA suffix."""
    return [
        found
        for name in names
        for found in facts.packages
        if found == name or found.startswith(f"{name}-cu")
    ][: len(names)]


def _conflict(facts: Facts, names: list[str], conflict: Conflict) -> Finding:
    sentence = f"{names[0]} and {names[1]} are both installed"
    reason = f"{conflict.effect} ({conflict.sources[0]})"
    if "onnxruntime" not in names:
        return Finding(WARNING, sentence, reason, f"pip uninstall -y {names[1]}")
    extra = "cpu" if facts.gpu is None else "gpu"
    command = f'pip uninstall -y {names[0]} {names[1]} && pip install "cff-edge[{extra}]"'
    runtime = facts.onnxruntime.value
    hidden = runtime is None or "CUDAExecutionProvider" not in runtime.providers
    level = PROBLEM if facts.gpu is not None and hidden else WARNING
    return Finding(level, sentence, reason, command)


def _gpu(facts: Facts, matrix: Matrix) -> Iterator[Finding]:
    if facts.gpu is not None:
        gpu = facts.gpu
        capability = gpu.compute_capability or "not told"
        yield Finding(OK, f"GPU {gpu.name}, compute capability {capability}")
        if gpu.persistence is False and not facts.is_jetson:
            yield Finding(
                WARNING,
                "the GPU's driver is unloaded whenever nobody uses it",
                "the first inspection after a pause then waits for it",
                "sudo nvidia-smi -pm 1",
            )
        return
    if facts.pci_gpus or facts.is_jetson or facts.nvidia_smi.value:
        verdict = judge_driver(facts, matrix)
        level = PROBLEM if facts.container.value is None else WARNING  # may be meant
        yield Finding(level, "the GPU cannot be used", verdict.reason, verdict.command)


def _jetson(facts: Facts, matrix: Matrix) -> Iterator[Finding]:
    release = facts.l4t.value
    if release is None:
        return
    row = matrix.jetpack_of(release, facts.jetpack.value)
    if row is None:
        yield Finding(WARNING, f"Jetson Linux {release} is not in the matrix of this version")
        return
    yield Finding(OK, f"Jetson Linux {release} is JetPack {row.jetpack}", row.sources[0])
    have = facts.system_tensorrt.value
    if have and row.tensorrt and release_numbers(have)[:2] != release_numbers(row.tensorrt)[:2]:
        yield Finding(
            WARNING,
            f"TensorRT {have} is not the one of JetPack {row.jetpack}, {row.tensorrt}",
            "engines of the one do not load in the other",
        )


def _power(facts: Facts) -> Iterator[Finding]:
    mode, modes = facts.power_mode.value, facts.power_modes.value
    if mode is None or modes is None or mode.name.upper().startswith("MAXN"):
        return
    largest = _largest_mode(modes)
    if largest is None:
        return
    yield Finding(
        WARNING,
        f"the power mode is {mode.name}, {largest.name} is the one without limits",
        "clocks are capped; check that supply and cooling allow more",
        f"sudo nvpmodel -m {largest.id} && sudo jetson_clocks",
    )


def _largest_mode(modes: Sequence[PowerMode]) -> PowerMode | None:
    """Return the mode without limits: its number differs from board to board."""
    named = [mode for mode in modes if mode.name.upper().startswith("MAXN")]
    return max(named, key=lambda mode: len(mode.name), default=None)  # MAXN_SUPER before MAXN


def _routes(routes: Sequence[Route], needs: BundleNeeds | None) -> Iterator[Finding]:
    for route in routes:
        if route.status == "after" and route.target != "cpu":  # the CPU's is said above
            sentence = f"`{route.name}` would work"
            if needs is not None and route.command and route.command.startswith("cff-run verify"):
                sentence = f"`{route.name}` in {route.precision} is known to give wrong results"
            yield Finding(WARNING, sentence, route.reason, route.command)


def _bundle(facts: Facts, needs: BundleNeeds | None, routes: Sequence[Route]) -> Iterator[Finding]:
    if needs is None:
        return
    if not can_run(routes):
        reasons = {route.reason for route in routes if route.target == "cpu" and route.reason}
        yield Finding(PROBLEM, "the bundle cannot be run here", "; ".join(sorted(reasons)))
    gpu_works = any(route.status == "works" and route.target != "cpu" for route in routes)
    if gpu_works and needs.of("fp16") is None:
        yield Finding(
            WARNING,
            "the bundle has no fp16 encoder for the GPU",
            "fp32 works and is slower",
            f"cff-export {shlex.quote(needs.path)} --precision fp16",
        )
    disk = facts.disk_free_bytes.value
    largest = max(p.weight_bytes for p in needs.precisions)
    if disk is not None and disk < 2 * largest:  # an engine, and the one before it
        yield Finding(
            WARNING,
            f"{disk // MEBIBYTE} MiB of disk are free",
            f"an engine takes about {largest // MEBIBYTE} MiB, the one before it is kept",
        )


def _engines(engines: Sequence[EngineFile], needs: BundleNeeds | None) -> Iterator[Finding]:
    path = shlex.quote(needs.path) if needs is not None else "BUNDLE"
    for engine in engines:
        if not engine.reason:
            state = "accepted by the gate" if engine.accepted else "not accepted by the gate yet"
            yield Finding(OK, f"engine `{engine.file}` fits, {state}")
            continue
        yield Finding(
            WARNING,
            f"engine `{engine.file}` does not fit",
            engine.reason,
            f"cff-run engine {path} --flavour {engine.flavour} --precision {engine.precision}",
        )
