"""The doctor's report as text: this box, the bundle, what will work, what to mend."""

import textwrap
from collections.abc import Iterator, Sequence

from cff_runtime.doctor.advice import OK, Finding
from cff_runtime.doctor.box import Reading
from cff_runtime.doctor.engine_files import EngineFile
from cff_runtime.doctor.facts import Facts, Gpu
from cff_runtime.doctor.needs import MEBIBYTE, N_REFERENCES, BundleNeeds
from cff_runtime.doctor.routes import Route

_WIDTH = 100
_LABEL = 18
_STATUS = {"works": "works", "after": "would work", "cannot": "cannot"}


def write_report(
    facts: Facts,
    needs: BundleNeeds | None,
    routes: Sequence[Route],
    findings: Sequence[Finding],
    engines: Sequence[EngineFile] = (),
) -> str:
    """Return the report: readable without colour, lines of at most 100 characters."""
    sections = [("This box", _box(facts))]
    if needs is not None:
        sections.append(("The bundle", _bundle(needs, engines)))
    sections.append(("What will work", _routes(routes)))
    sections.append(("What to mend", _findings(findings)))
    return "\n\n".join("\n".join([title, *lines]) for title, lines in sections) + "\n"


def _line(label: str, text: object) -> str:
    return _wrap(str(text), f"  {label:{_LABEL}}", " " * (_LABEL + 2))


def _indented(text: str, indent: int) -> str:
    return _wrap(text, " " * indent, " " * 6)


def _wrap(text: str, first: str, others: str) -> str:
    """Wrap between words: addresses and package names stay whole."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _box(facts: Facts) -> Iterator[str]:
    yield _line("system", f"{facts.os_name}, {facts.architecture}")
    if facts.container.value:
        yield _line("container", facts.container)
    if facts.board.value:
        yield _line("board", facts.board)
    if facts.is_jetson:
        yield _line("Jetson Linux", f"{facts.l4t}; nvidia-jetpack {facts.jetpack}")
        mode = facts.power_mode.value
        named = f"{mode.name} ({mode.id})" if mode is not None else facts.power_mode
        yield _line("power mode", named)
    cores = facts.cpu_cores
    yield _line("CPU", f"{facts.cpu}; {cores} cores; governor {facts.cpu_governor}")
    free = _mebibytes(facts.memory_available_bytes)
    yield _line("memory", f"{_mebibytes(facts.memory_bytes)}, {free} free")
    yield _line("disk", f"{_mebibytes(facts.disk_free_bytes)} free")
    for gpu in facts.gpus.value or ():
        yield _line("GPU", _gpu(gpu))
    if facts.gpu is None:
        yield _line("GPU", f"{facts.gpus}; {facts.pci_gpus} NVIDIA devices on the bus")
    yield _line("NVIDIA driver", f"{facts.driver}; nvidia-smi {facts.nvidia_smi}")
    yield _line("CUDA", f"driver {facts.cuda_driver}; toolkit {facts.cuda_toolkit}")
    yield _line("TensorRT", f"Debian packages {facts.system_tensorrt}")
    yield _line("Python", facts.python_version)
    installed = (f"{name} {version}" for name, version in facts.packages.items())
    yield _line("packages", ", ".join(installed) or "none of those that matter")
    runtime = facts.onnxruntime.value
    if runtime is None:
        yield _line("ONNX Runtime", facts.onnxruntime)
        return
    yield _line("ONNX Runtime", f"{runtime.version}; {', '.join(runtime.providers)}")
    for name, error in runtime.load_errors.items():
        yield _line("", f"{name}: {error or 'its library loads'}")


def _gpu(gpu: Gpu) -> str:
    parts = [gpu.name]
    if gpu.compute_capability:
        parts.append(f"compute capability {gpu.compute_capability}")
    if gpu.memory_bytes:
        parts.append(f"{gpu.memory_bytes // MEBIBYTE} MiB")
    if gpu.clock_mhz is not None:
        parts.append(f"{gpu.clock_mhz} of {gpu.clock_max_mhz or '?'} MHz")
    if gpu.persistence is not None:
        parts.append(f"persistence {'on' if gpu.persistence else 'off'}")
    return ", ".join(parts)


def _mebibytes(reading: Reading[int]) -> str:
    return str(reading) if reading.value is None else f"{reading.value // MEBIBYTE} MiB"


def _bundle(needs: BundleNeeds, engines: Sequence[EngineFile]) -> Iterator[str]:
    size = f"{needs.height} x {needs.width} px"
    yield _line("path", needs.path)
    yield _line("id", f"{needs.id[:12]}, schema {needs.schema_version}")
    yield _line("encoder", f"{needs.backbone}, {size}")
    for entry in needs.precisions:
        kept = f", {len(entry.kept_fp32)} blocks in fp32" if entry.kept_fp32 else ""
        memory = needs.cpu_bytes(entry.precision) // MEBIBYTE
        yield _line(
            entry.precision,
            f"{entry.encoder}, {entry.weight_bytes // MEBIBYTE} MiB{kept}; about {memory} MiB of "
            "memory on the CPU",
        )
    banks = f"{needs.bank_bytes / MEBIBYTE:.1f} MiB for {N_REFERENCES} references"
    yield _line("memory bank", banks if needs.bank_bytes else "none")
    for engine in engines:
        yield _line("engine", f"{engine.file}: {engine.reason or 'fits'}")


def _routes(routes: Sequence[Route]) -> Iterator[str]:
    """Give one line to all precisions of a target that share a verdict."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for route in routes:
        verdict = (route.name, _STATUS[route.status], route.reason)
        groups.setdefault(verdict, []).append(route.precision)
    for (name, status, reason), precisions in groups.items():
        yield f"  {name:28}{status:12}{', '.join(precisions)}"
        if reason:
            yield _indented(reason, 6)


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    wrong = [finding for finding in findings if finding.level != OK]
    if not wrong:
        yield "  nothing"
    for finding in wrong:
        reason = f": {finding.reason}" if finding.reason else ""
        yield _indented(f"{finding.level}  {finding.sentence}{reason}", 2)
        if finding.command is not None:  # never wrapped: to be copied
            yield f"      {finding.command}"
