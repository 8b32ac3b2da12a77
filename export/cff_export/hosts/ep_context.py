"""Encoders compiled ahead by ONNX Runtime's TensorRT providers: EPContext models.

Such a model holds an engine instead of nodes, so that a session starts without building one. It
fits one kind of GPU and one version of the provider; ONNX Runtime checks neither hash nor origin,
which is why both are written beside it, to ``ep_context.json``.

Both providers need the GPU, or at least its driver, while they compile:
- ``tensorrt`` belongs to onnxruntime-gpu and builds the engine when a session is made;
- ``nv-tensorrt-rtx`` comes as a plugin, the package onnxruntime-ep-nv-tensorrt-rtx. Without the
  driver, version 0.5.0 cannot be loaded (seen: libcuda.so.1 is missing); compiling without a
  matching GPU is an open request, https://github.com/microsoft/onnxruntime/issues/29757.

So this is a step on the box; it has not run on a GPU yet.
"""

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cff_export.graph_files import MAX_SINGLE_FILE_BYTES
from cff_export.hosts.staging import require_outside, staged_folder
from cff_export.hosts.standalone import load_encoder
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.storage import sha256_file

# name -> (provider, package that brings it)
PROVIDERS = {
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "nv-tensorrt-rtx": ("NvTensorRTRTXExecutionProvider", "onnxruntime-ep-nv-tensorrt-rtx"),
}
RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
FACTS = "ep_context.json"


@dataclass(frozen=True)
class EpContextReport:
    """What was written.

    Attributes
    ----------
    path : Path
        The EPContext model.
    provider : str
        ONNX Runtime's name of the provider that compiled it, and the only one that runs it.
    embedded : bool
        Whether the engine is inside the model; else it is another file in the same folder.
    files : dict of str
        SHA-256 of every file, by name.
    """

    path: Path
    provider: str
    embedded: bool
    files: dict[str, str]


def write_ep_context(bundle: Bundle, provider: str, out: Path) -> EpContextReport:
    """Compile a bundle's encoder, for a batch of one, to an EPContext model.

    Parameters
    ----------
    bundle : Bundle
    provider : {'tensorrt', 'nv-tensorrt-rtx'}
    out : Path
        Folder to write; must not exist.

    Raises
    ------
    UsageError
        If the provider is unknown, or `out` exists or lies inside the bundle.
    BackendError
        If the installed ONNX Runtime has no such provider or device, or cannot compile.
    StorageError
        If a file cannot be written.
    """
    out = Path(out)
    if provider not in PROVIDERS:
        raise UsageError(f"`provider` must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    require_outside(out, bundle.path)
    if out.exists():
        raise UsageError(f"`{out}` must not exist yet; remove it or choose another folder")
    name, _ = PROVIDERS[provider]
    devices = None if name in ort.get_available_providers() else _plugin_devices(provider, bundle)
    source = bundle.file(bundle.manifest.encoder)
    model = load_encoder(bundle)
    weights = (value.const_value for value in model.graph.initializers.values())
    embedded = sum(t.nbytes for t in weights if t is not None) <= MAX_SINGLE_FILE_BYTES
    options = ort.SessionOptions()
    image = model.graph.inputs[0].shape
    if image is not None and not isinstance(image[0], int):
        # with a free batch an engine would be built for each batch size that comes
        options.add_free_dimension_override_by_name(str(image[0].value), 1)
    with staged_folder(out) as work:
        target = work / f"{source.stem}.{provider}_ctx.onnx"
        if devices is None:
            _compile_in_session(source, target, name, options, embedded)
        else:
            _compile_for_devices(source, target, devices, options, embedded)
        if not target.is_file():
            raise BackendError(f"{name} must write an EPContext model and wrote none")
        files = {path.name: sha256_file(path) for path in sorted(work.iterdir())}
        report = EpContextReport(out / target.name, name, embedded, files)
        (work / FACTS).write_text(_facts(report, bundle), encoding="utf-8")
        work.rename(out)
    return report


def session_entries(target: Path, embedded: bool) -> dict[str, str]:
    """Return the session configuration that makes ONNX Runtime write an EPContext model."""
    return {
        "ep.context_enable": "1",
        "ep.context_file_path": str(target),
        "ep.context_embed_mode": "1" if embedded else "0",
        # a node that the provider does not take would run elsewhere without a word
        "session.disable_cpu_ep_fallback": "1",
    }


def _compile_in_session(
    source: Path, target: Path, name: str, options: Any, embedded: bool
) -> None:
    """Let a provider of the installed ONNX Runtime compile while a session is made."""
    for key, value in session_entries(target, embedded).items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(str(source), options, providers=[name])
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise BackendError(f"{name} cannot compile `{source}`: {error}") from error
    if session.get_providers()[0] != name:
        raise BackendError(
            f"`{source.name}` must be compiled by {name}, ONNX Runtime chose "
            f"{session.get_providers()[0]}; check the driver and libraries of this provider"
        )


def _plugin_devices(provider: str, bundle: Bundle) -> list[Any]:
    """Load TensorRT-RTX's plugin; return the devices that it can compile for."""
    name, _ = PROVIDERS[provider]
    if provider != "nv-tensorrt-rtx":
        raise _not_here(provider, bundle, f"has {', '.join(ort.get_available_providers())}")
    try:
        plugin = importlib.import_module(RTX_PLUGIN)
    except ImportError as error:
        raise _not_here(provider, bundle, f"has no plugin `{RTX_PLUGIN}`") from error
    try:
        ort.register_execution_provider_library(name, plugin.get_library_path())
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise _not_here(provider, bundle, f"cannot load it ({error})") from error
    devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not devices:
        raise _not_here(provider, bundle, "finds no RTX GPU for it")
    return devices


def _compile_for_devices(
    source: Path, target: Path, devices: list[Any], options: Any, embedded: bool
) -> None:
    """Let ONNX Runtime's compiler drive a plugin."""
    try:
        options.add_provider_for_devices(devices[:1], {})
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        compiler = ort.ModelCompiler(options, str(source), embed_compiled_data_into_model=embedded)
        compiler.compile_to_file(str(target))
    except Exception as error:  # ONNX Runtime raises many kinds, all bare Exceptions
        raise BackendError(f"{devices[0].ep_name} cannot compile `{source}`: {error}") from error


def _not_here(provider: str, bundle: Bundle, reason: str) -> BackendError:
    name, package = PROVIDERS[provider]
    return BackendError(
        f"an EPContext model must be written on the box, by {name}, but the ONNX Runtime here "
        f"{reason}; there: `pip install {package}`, then "
        f"`cff-export {bundle.path.name} --ep-context DIR --provider {provider}`"
    )


def _facts(report: EpContextReport, bundle: Bundle) -> str:
    facts = {
        **asdict(report),
        "path": report.path.name,
        "bundle_id": bundle.manifest.id,
        "precision": bundle.manifest.precision,
        "encoder": bundle.manifest.encoder,
        "encoder_sha256": bundle.manifest.files[bundle.manifest.encoder].sha256,
        "batch": 1,
        "onnxruntime": str(ort.__version__),
    }
    return json.dumps(facts, indent=2) + "\n"
