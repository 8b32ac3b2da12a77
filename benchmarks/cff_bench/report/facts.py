"""What stands above the figures of every report: the machine, the run, in few words."""

from collections.abc import Mapping
from typing import Any

_PACKAGES = ("cff-edge", "onnxruntime", "onnxruntime-gpu", "torch", "openvino", "tensorrt")


def machine_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the machine in words, without what is unknown."""
    cores = environment.get("cores_available")
    clock = [
        _with_unit(environment.get("cpu_mhz"), "MHz"),
        _with_unit(environment.get("cpu_mhz_max"), "MHz at most"),
        environment.get("cpu_governor"),
        environment.get("power_mode"),
    ]
    packages = environment.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in _PACKAGES if packages.get(name)]
    load = environment.get("load_average")
    facts = {
        "machine": _joined(
            [
                environment.get("board") or environment.get("cpu_model"),
                f"{cores} cores" if cores else None,
                _with_unit(environment.get("ram_gib"), "GiB"),
            ]
        ),
        "GPU": environment.get("gpu"),
        "clock": _joined(clock),
        "system": _joined([environment.get("os"), environment.get("kernel")]),
        "versions": _joined([f"Python {environment['python']}"] if "python" in environment else [])
        + (", " if versions and "python" in environment else "")
        + ", ".join(versions),
        "load": ", ".join(f"{value:.2f}" for value in load) if load else None,
        "date": environment.get("date_utc"),
    }
    return {name: str(value) for name, value in facts.items() if value}


def setting_facts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings in words; what is empty is left out."""
    return {
        str(name).replace("_", " "): _plain(value)
        for name, value in settings.items()
        if value is not None and value != "" and value != [] and value != {}
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_unit(value: Any, unit: str) -> str | None:
    return None if value is None else f"{value:.0f} {unit}"


def _joined(parts: list[Any]) -> str:
    return ", ".join(str(part) for part in parts if part)
