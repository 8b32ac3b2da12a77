"""What differs between two reports besides their figures."""

from collections.abc import Mapping
from typing import Any

from cff_bench.report.document import Report

_MACHINE = {
    "CPU": "cpu_model",
    "board": "board",
    "cores": "cores_available",
    "architecture": "machine",
}
# of every run anew, so that they say nothing about what was measured
_PASSING = ("n", "warmup", "json", "out", "inside")


def machine_differences(a: Report, b: Report) -> list[str]:
    """Return what makes the machines of two reports different, in words."""
    pairs = {
        name: (a.environment.get(key), b.environment.get(key)) for name, key in _MACHINE.items()
    }
    pairs["GPU"] = (_gpu_name(a), _gpu_name(b))
    return [_words(name, *values) for name, values in pairs.items() if values[0] != values[1]]


def run_differences(a: Report, b: Report) -> list[str]:
    """Return what else differs: bundle, settings, threads, versions, governor."""
    pairs: dict[str, tuple[Any, Any]] = {"bundle id": (_bundle_id(a), _bundle_id(b))}
    names = [*a.settings, *(name for name in b.settings if name not in a.settings)]
    for name in names:
        if name not in _PASSING:
            pairs[name] = (a.settings.get(name), b.settings.get(name))
    for key in ("thread_variables", "packages"):
        first, second = a.environment.get(key) or {}, b.environment.get(key) or {}
        for name in sorted({*first, *second}):
            pairs[name] = (first.get(name), second.get(name))
    for name in ("cpu_governor", "power_mode", "python", "kernel"):
        pairs[name] = (a.environment.get(name), b.environment.get(name))
    return [_words(name, *values) for name, values in pairs.items() if values[0] != values[1]]


def _bundle_id(report: Report) -> str | None:
    for place in (report.facts, report.settings):
        bundle = place.get("bundle")
        found = place.get("bundle_id") or (
            bundle.get("id") if isinstance(bundle, Mapping) else None
        )
        if found:
            return str(found)[:12]
    return None


def _gpu_name(report: Report) -> str | None:
    """Return name and driver: the clock, which follows, differs from moment to moment."""
    gpu = report.environment.get("gpu")
    return None if gpu is None else ",".join(str(gpu).split(",")[:2])


def _words(name: str, a: Any, b: Any) -> str:
    return f"{name} {_shown(a)} -> {_shown(b)}"


def _shown(value: Any) -> str:
    return "–" if value is None else str(value)
