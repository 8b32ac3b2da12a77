"""EPContext models: what is asked of ONNX Runtime, by a fake of it; the refusal for real."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from cff_export.hosts import ep_context
from cff_export.hosts.ep_context import FACTS, PROVIDERS, RTX_PLUGIN, write_ep_context
from cff_runtime import Bundle
from cff_runtime.backends.onnxruntime import PROVIDERS as RUNTIME_PROVIDERS
from cff_runtime.errors import BackendError, UsageError
from cff_runtime.storage import sha256_file

RTX = "NvTensorRTRTXExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


class FakeOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.dimensions: dict[str, int] = {}
        self.devices: list[Any] = []

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value

    def add_free_dimension_override_by_name(self, name: str, value: int) -> None:
        self.dimensions[name] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.devices = [*devices, options]


class FakeOnnxRuntime:
    """As much of onnxruntime as `ep_context` calls; remembers what it was asked."""

    __version__ = "1.99"

    def __init__(self, providers: list[str], plugin_devices: int = 0) -> None:
        self.providers = providers
        self.registered: list[tuple[str, str]] = []
        self.calls: list[SimpleNamespace] = []
        self.n_devices = plugin_devices
        self.writes = True
        self.runs_on = providers[0] if providers else ""
        self.SessionOptions = FakeOptions

    def get_available_providers(self) -> list[str]:
        return self.providers

    def InferenceSession(  # noqa: N802 - onnxruntime's name
        self, path: str, options: FakeOptions, providers: list[str]
    ) -> SimpleNamespace:
        self.calls.append(SimpleNamespace(path=path, options=options, providers=providers))
        if self.writes:
            Path(options.entries["ep.context_file_path"]).write_bytes(b"context")
        return SimpleNamespace(get_providers=lambda: [self.runs_on])

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if path == "broken.so":
            raise RuntimeError("libcuda.so.1: cannot open shared object file")
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[SimpleNamespace]:
        ours = [SimpleNamespace(ep_name=RTX, index=index) for index in range(self.n_devices)]
        return [SimpleNamespace(ep_name="CPUExecutionProvider"), *ours]

    def ModelCompiler(  # noqa: N802 - onnxruntime's name
        self, options: FakeOptions, path: str, embed_compiled_data_into_model: bool
    ) -> SimpleNamespace:
        call = SimpleNamespace(path=path, options=options, embed=embed_compiled_data_into_model)
        self.calls.append(call)

        def compile_to_file(target: str) -> None:
            Path(target).write_bytes(b"compiled")

        return SimpleNamespace(compile_to_file=compile_to_file)


@pytest.fixture(scope="module")
def bundle(exported: Callable[..., Any]) -> Bundle:
    made: Bundle = exported("vit", "affine").bundle
    return made


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOnnxRuntime]:
    """Put a fake onnxruntime, and if asked its plugin's package, in the place of the real ones."""

    def put(providers: list[str], library: str = "", devices: int = 0) -> FakeOnnxRuntime:
        fake = FakeOnnxRuntime(providers, devices)
        monkeypatch.setattr(ep_context, "ort", fake)
        plugin = SimpleNamespace(get_library_path=lambda: library) if library else None
        monkeypatch.setitem(sys.modules, RTX_PLUGIN, plugin)  # None: an import fails
        return fake

    return put


def test_providers_are_the_runtimes() -> None:
    for name, (provider, _) in PROVIDERS.items():
        assert RUNTIME_PROVIDERS[name][0] == provider


@pytest.mark.parametrize("provider", list(PROVIDERS))
def test_a_provider_of_onnx_runtime_is_asked_by_session_options(
    bundle: Bundle, use: Callable[..., FakeOnnxRuntime], tmp_path: Path, provider: str
) -> None:
    name = PROVIDERS[provider][0]
    fake = use([name, "CPUExecutionProvider"])
    out = tmp_path / "ctx"
    report = write_ep_context(bundle, provider, out)
    (call,) = fake.calls
    source = bundle.file(bundle.manifest.encoder)
    assert (call.path, call.providers) == (str(source), [name])
    entries = dict(call.options.entries)
    assert Path(entries.pop("ep.context_file_path")).name == f"encoder.fp32.{provider}_ctx.onnx"
    assert entries == {
        "ep.context_enable": "1",
        "ep.context_embed_mode": "1",
        "session.disable_cpu_ep_fallback": "1",
    }
    assert call.options.dimensions == {"batch": 1}
    assert report.path == out / f"encoder.fp32.{provider}_ctx.onnx"
    assert report.path.read_bytes() == b"context"
    assert report.embedded
    facts = json.loads((out / FACTS).read_text())
    assert facts["provider"] == name
    assert facts["bundle_id"] == bundle.manifest.id
    assert facts["encoder_sha256"] == sha256_file(source)
    assert facts["files"] == report.files == {report.path.name: sha256_file(report.path)}
    assert facts["onnxruntime"] == "1.99"


def test_the_plugin_is_asked_through_the_compiler(
    bundle: Bundle, use: Callable[..., FakeOnnxRuntime], tmp_path: Path
) -> None:
    fake = use(["CPUExecutionProvider"], library="plugin.so", devices=2)
    report = write_ep_context(bundle, "nv-tensorrt-rtx", tmp_path / "ctx")
    assert fake.registered == [(RTX, "plugin.so")]
    (call,) = fake.calls
    assert call.path == str(bundle.file(bundle.manifest.encoder))
    assert call.embed is True
    device, options = call.options.devices
    assert (device.ep_name, device.index, options) == (RTX, 0, {})
    assert call.options.dimensions == {"batch": 1}
    assert report.path.read_bytes() == b"compiled"


def test_a_fixed_batch_stays_and_large_weights_go_beside(
    bundle: Bundle,
    use: Callable[..., FakeOnnxRuntime],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(bundle.file(bundle.manifest.encoder))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / "bundle").mkdir()
    onnx.save(model, tmp_path / "bundle" / bundle.manifest.encoder)
    monkeypatch.setattr(ep_context, "MAX_SINGLE_FILE_BYTES", 1000)
    fake = use([TENSORRT])
    fixed = replace(bundle, path=tmp_path / "bundle")
    report = write_ep_context(fixed, "tensorrt", tmp_path / "ctx")
    (call,) = fake.calls
    assert call.options.dimensions == {}
    assert call.options.entries["ep.context_embed_mode"] == "0"
    assert not report.embedded


def test_what_goes_wrong_is_said_and_leaves_nothing(
    bundle: Bundle, use: Callable[..., FakeOnnxRuntime], tmp_path: Path
) -> None:
    out = tmp_path / "ctx"
    fake = use([TENSORRT])
    fake.runs_on = "CPUExecutionProvider"
    with pytest.raises(BackendError, match="ONNX Runtime chose CPUExecutionProvider"):
        write_ep_context(bundle, "tensorrt", out)
    fake = use([TENSORRT])
    fake.writes = False
    with pytest.raises(BackendError, match="wrote none"):
        write_ep_context(bundle, "tensorrt", out)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    for asked, provider in (("InferenceSession", "tensorrt"), ("ModelCompiler", "nv-tensorrt-rtx")):
        fake = use([TENSORRT], library="plugin.so", devices=1)
        setattr(fake, asked, fails)
        with pytest.raises(BackendError, match=r"cannot compile .*encoder.*no kernel"):
            write_ep_context(bundle, provider, out)
    for library, devices, reason in (
        ("", 0, "has no plugin"),
        ("broken.so", 0, r"cannot load it \(libcuda\.so\.1"),
        ("plugin.so", 0, "finds no RTX GPU"),
    ):
        use(["CPUExecutionProvider"], library, devices)
        with pytest.raises(BackendError, match=reason) as caught:
            write_ep_context(bundle, "nv-tensorrt-rtx", out)
        assert "pip install onnxruntime-ep-nv-tensorrt-rtx" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refused_for_real_where_no_provider_is(bundle: Bundle, tmp_path: Path) -> None:
    if TENSORRT in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the provider")
    with pytest.raises(BackendError) as caught:
        write_ep_context(bundle, "tensorrt", tmp_path / "ctx")
    assert "written on the box" in str(caught.value)
    assert "CPUExecutionProvider" in str(caught.value)
    command = f"cff-export {bundle.path.name} --ep-context DIR --provider tensorrt"
    assert command in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refused_calls(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be one of tensorrt, nv-tensorrt-rtx"):
        write_ep_context(bundle, "cuda", tmp_path / "ctx")
    with pytest.raises(UsageError, match="must not exist yet"):
        write_ep_context(bundle, "tensorrt", tmp_path)
    with pytest.raises(UsageError, match="outside the bundle"):
        write_ep_context(bundle, "tensorrt", bundle.path / "ctx")
