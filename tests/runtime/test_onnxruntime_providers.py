"""Providers of ONNX Runtime by name, their options and plug-ins; and the same from a command line.

No GPU: what is checked is what ONNX Runtime is told, and what becomes of its errors.
"""

import argparse
import logging
import sys
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from cff_runtime import Bundle
from cff_runtime.backends import BACKENDS, open_backend
from cff_runtime.backends import onnxruntime_providers as providers
from cff_runtime.backends.onnxruntime_providers import PROVIDERS, prepare_provider
from cff_runtime.errors import BackendError, MissingDependencyError, UsageError
from cff_runtime.opening import add_backend_arguments, backend_options, open_named_backend

RTX = "NvTensorRTRTXExecutionProvider"
PLUG_IN = "onnxruntime_ep_nv_tensorrt_rtx"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An ONNX Runtime that has every provider, and what its sessions are told."""
    told: list[dict[str, Any]] = []

    def open_session(path: str, options: Any, **arguments: Any) -> Any:
        told.append(arguments)
        raise RuntimeError("Invalid CUDA EP option: no_such_option")

    names = [name for name, _ in PROVIDERS.values()]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    return told


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A plug-in package with the two functions of NVIDIA's 0.5.0, and an ONNX Runtime for it."""
    state = SimpleNamespace(registered=[], devices=[], error=None)

    def register(name: str, path: str) -> None:
        state.registered.append((name, path))
        if state.error:
            raise RuntimeError(state.error)
        state.devices = [
            SimpleNamespace(ep_name="CPUExecutionProvider"),
            SimpleNamespace(ep_name=name),
        ]

    module = SimpleNamespace(get_ep_name=lambda: RTX, get_library_path=lambda: "/ep.so")
    monkeypatch.setitem(sys.modules, PLUG_IN, module)
    monkeypatch.setattr(ort, "register_execution_provider_library", register, raising=False)
    monkeypatch.setattr(ort, "get_ep_devices", lambda: state.devices, raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(providers, "_registered", set())
    return state


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("cuda", {"gpu_mem_limit": 2147483648, "arena_extend_strategy": "kSameAsRequested"}),
        ("tensorrt", {"trt_fp16_enable": "True", "trt_engine_cache_path": "/var/cache/ort"}),
        ("nv-tensorrt-rtx", {"nv_max_workspace_size": "1073741824"}),
    ],
)
def test_options_reach_onnxruntime_as_given(
    provider: str, options: dict[str, Any], told: list[dict[str, Any]], lite_bundle: Bundle
) -> None:
    name = PROVIDERS[provider][0]

    with pytest.raises(BackendError, match=r"cannot load `.*encoder.*no_such_option"):
        open_backend(
            "onnxruntime", lite_bundle, {"provider": provider, "provider_options": options}
        )

    texts = {key: str(value) for key, value in options.items()}
    assert told == [{"providers": [(name, texts)], "enable_fallback": 0}]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "nv-tensorrt-rtx"])
def test_without_options_none_are_passed(
    provider: str, told: list[dict[str, Any]], lite_bundle: Bundle
) -> None:
    with pytest.raises(BackendError):
        open_backend("onnxruntime", lite_bundle, {"provider": provider})
    assert told == [{"providers": [PROVIDERS[provider][0]], "enable_fallback": 0}]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_real_onnxruntime_does_not_end_up_elsewhere(
    lite_bundle: Bundle, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of the real package, asked for CUDA, comes up on the CPU."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: names)

    with pytest.raises(BackendError, match="must run on CUDAExecutionProvider, ONNX Runtime chose"):
        open_backend("onnxruntime", lite_bundle, {"provider": "cuda"})
    assert capfd.readouterr().out == ""


def test_the_cpu_takes_no_options(lite_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="provider `cpu` must have no options, got arena"):
        open_backend("onnxruntime", lite_bundle, {"provider_options": {"arena": 1}})
    assert open_backend("onnxruntime", lite_bundle, {"provider_options": {}, "threads": 1})


def test_cudas_libraries_are_loaded_from_wheels_without_a_word_on_stdout(
    told: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn"))  # noqa: T201

    with caplog.at_level(logging.DEBUG):
        for provider in ("cpu", "cuda"):
            prepare_provider(provider)

    assert capsys.readouterr().out == ""
    assert caplog.text.count("Failed to load libcudnn") == 1


def test_an_older_onnxruntime_has_nothing_to_preload(
    told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort, "preload_dlls")

    assert prepare_provider("cuda").device == "cuda"


def test_a_plug_in_is_registered_once_and_used_through_its_devices(
    plug_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = prepare_provider("nv-tensorrt-rtx", {"nv_cuda_graph_enable": 1})
    again = prepare_provider("nv-tensorrt-rtx")

    assert plug_in.registered == [(RTX, "/ep.so")]
    assert (provider.name, provider.device, provider.is_cpu) == (RTX, "cpu", False)
    assert [device.ep_name for device in provider.plug_in_devices] == [RTX]
    assert again.plug_in_devices == provider.plug_in_devices
    added: list[Any] = []
    opened: list[Any] = []
    monkeypatch.setattr(ort, "InferenceSession", lambda *call, **more: opened.append((call, more)))
    options = SimpleNamespace(add_provider_for_devices=lambda *call: added.append(call))
    provider.open_session("graph.onnx", options)
    assert added == [(list(provider.plug_in_devices), {"nv_cuda_graph_enable": "1"})]
    assert opened == [(("graph.onnx", options), {})]


def test_the_real_onnxruntime_can_be_given_plug_ins() -> None:
    """The functions that are called, in the package that is installed here."""
    if not hasattr(ort, "register_execution_provider_library"):
        pytest.skip("an ONNX Runtime before 1.22")
    assert hasattr(ort.SessionOptions, "add_provider_for_devices")
    assert all(hasattr(device, "ep_name") for device in ort.get_ep_devices())
    assert ort.get_ep_devices()


def test_a_plug_in_whose_library_does_not_load_says_so(
    plug_in: SimpleNamespace,
) -> None:
    plug_in.error = "libcuda.so.1: cannot open shared object file"

    with pytest.raises(BackendError, match=r"library of provider `\S+` must load.*libcuda"):
        prepare_provider("nv-tensorrt-rtx")
    plug_in.error = None
    assert prepare_provider("nv-tensorrt-rtx").plug_in_devices


def test_the_real_onnxruntime_refuses_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(ort, "register_execution_provider_library"):
        pytest.skip("an ONNX Runtime before 1.22")
    module = SimpleNamespace(get_ep_name=lambda: RTX, get_library_path=lambda: "/no/such/ep.so")
    monkeypatch.setitem(sys.modules, PLUG_IN, module)
    monkeypatch.setattr(providers, "_registered", set())

    with pytest.raises(BackendError, match=r"must load, and does not: .*such"):
        prepare_provider("nv-tensorrt-rtx")


def test_a_plug_in_that_finds_no_gpu_says_so(plug_in: SimpleNamespace) -> None:
    providers._registered.add("nv-tensorrt-rtx")

    with pytest.raises(BackendError, match="must find a GPU that it supports, it finds none"):
        prepare_provider("nv-tensorrt-rtx")


def test_a_plug_in_wants_a_newer_onnxruntime(
    plug_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ort, "register_execution_provider_library")

    with pytest.raises(BackendError, match=r"must have ONNX Runtime 1\.24 or newer"):
        prepare_provider("nv-tensorrt-rtx")


def test_without_the_plug_in_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, PLUG_IN, None)

    with pytest.raises(BackendError, match="or onnxruntime-ep-nv-tensorrt-rtx"):
        prepare_provider("nv-tensorrt-rtx")


# a command line


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_backend_arguments(parser)
    return parser.parse_args(words)


def test_help_says_what_has_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(BACKENDS) == {"onnxruntime", "tensorrt"}
    with pytest.raises(SystemExit):
        _parse("--help")
    assert "not yet run on a GPU" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"provider": "cpu", "threads": 0}),
        (
            (
                "--provider",
                "cuda",
                "--provider-option",
                "device_id=1",
                "--provider-option",
                "a=b=c",
            ),
            {
                "provider": "cuda",
                "threads": 0,
                "provider_options": {"device_id": "1", "a": "b=c"},
            },
        ),
        (("--backend", "tensorrt"), {}),
        (
            (
                *("--backend", "tensorrt", "--backend-option", "flavour=tensorrt-rtx"),
                *("--backend-option", "memory_mb=256", "--backend-option", "graph=true"),
                *("--backend-option", "tf32=OFF"),
            ),
            {"flavour": "tensorrt-rtx", "memory_mb": 256, "graph": True, "tf32": False},
        ),
    ],
)
def test_options_of_a_command_line(words: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert backend_options(_parse(*words)) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--provider-option", "device_id"), "`--provider-option` must be KEY=VALUE"),
        (("--provider-option", "=1"), "must be KEY=VALUE"),
        (("--provider-option", "a=1", "--provider-option", "a=2"), "'a' came twice"),
        (("--backend", "tensorrt", "--provider", "cuda"), "are of backend onnxruntime"),
        (("--backend", "tensorrt", "--threads", "2"), "are of backend onnxruntime"),
        (("--backend", "tensorrt", "--provider-option", "a=1"), "are of backend onnxruntime"),
        (
            ("--backend", "tensorrt", "--backend-option", "memory_mb=much"),
            "`memory_mb` must be a whole number, got 'much'",
        ),
        (
            ("--backend", "tensorrt", "--backend-option", "graph=maybe"),
            "`graph` must be true or false",
        ),
        (("--backend-option", "provider_options=1"), "cannot be given with `--backend-option`"),
        (("--backend", "tensorflow", "--backend-option", "a=1"), "`backend` must be one of"),
    ],
)
def test_wrong_options_of_a_command_line(words: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        backend_options(_parse(*words))


def test_an_unknown_option_lists_those_that_there_are(lite_bundle: Bundle) -> None:
    arguments = _parse("--backend", "tensorrt", "--backend-option", "memory=1")

    with pytest.raises(UsageError, match="must be one of flavour, memory_mb, graph, cuda, engines"):
        open_named_backend(arguments, lite_bundle)


def test_tensorrt_on_this_box_is_refused_in_one_sentence(
    lite_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cff_runtime.backends.tensorrt.find_gpu", lambda: None)
    words = ("--backend", "tensorrt", "--backend-option", "flavour=tensorrt-rtx")

    with pytest.raises((BackendError, MissingDependencyError), match=r"GPU|install cff-edge"):
        open_named_backend(_parse(*words), lite_bundle)
