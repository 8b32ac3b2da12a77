"""Flavours, GPUs and keys: what an engine depends on. No TensorRT is needed."""

import ctypes
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cff_runtime.engines
from cff_runtime.engines import EngineKey, EngineSettings, Gpu, find_gpu, static
from cff_runtime.engines.flavours import Flavour, choose_capabilities, load_flavour
from cff_runtime.engines.key import graph_sha256
from cff_runtime.errors import (
    BackendError,
    CffError,
    MissingDependencyError,
    UsageError,
)

KEY = EngineKey(
    graph="a" * 64,
    precision="fp16",
    flavour="tensorrt-rtx",
    version="1.7.1",
    compute_capabilities=("8.6", "8.9"),
    gpu="",
    sizes=(("image", static(1)),),
    tf32=False,
)


class FakeDriver:
    """Answers as the CUDA driver API documents: 0 is success, values come through pointers."""

    def __init__(self, failing: str = "") -> None:
        self._failing = failing

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == self._failing:
                return 100  # CUDA_ERROR_NO_DEVICE
            if name == "cuDeviceGetName":
                arguments[0].value = b"Orin"
            if name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1]]
            return 0

        return call


def _flavour(
    name: str,
    version: str,
    capabilities: tuple[str, ...] = (),
    flags: Mapping[str, int] | None = None,
) -> Flavour:
    enum: Any = Enum  # the members are not literals, which a checker wants
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=enum("Flags", dict(flags or {}), type=int))
    if capabilities:
        members = [(name, index) for index, name in enumerate(capabilities)]
        trt.ComputeCapability = enum("ComputeCapability", members)
    return Flavour(name, trt, version)


RTX = _flavour("tensorrt-rtx", "1.7.1", ("NONE", "CURRENT", "SM75", "SM120", "SM80", "SM86"))


def test_the_gpu_is_asked_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeDriver())

    assert find_gpu() == Gpu("Orin", "8.7")


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDeviceGetName"])
def test_a_driver_without_a_gpu_is_no_gpu(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeDriver(failing))

    assert find_gpu() is None


def test_a_box_without_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)

    assert find_gpu() is None


@pytest.mark.parametrize(
    ("version", "flags", "expected", "strong"),
    [
        ("8.6.1", {"EXPLICIT_BATCH": 0}, 0b1, False),
        ("9.3.0", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b11, True),
        ("10.3.0", {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 0b10, True),
        ("11.1.0", {"STRONGLY_TYPED": 0}, 0b1, True),
        ("12.0.0", {}, 0, True),
    ],
)
def test_networks_are_created_as_each_version_wants_it(
    version: str, flags: dict[str, int], expected: int, strong: bool
) -> None:
    flavour = _flavour("tensorrt", version, flags=flags)

    assert flavour.network_flags == expected
    assert flavour.is_strongly_typed is strong


def test_capabilities_are_sorted_numbers_with_a_dot() -> None:
    assert list(RTX.capabilities) == ["7.5", "8.0", "8.6", "12.0"]
    assert RTX.capabilities["12.0"].name == "SM120"
    assert not _flavour("tensorrt", "10.3").capabilities


def test_rtx_builds_for_what_is_named_else_for_the_gpu_else_for_all_from_8_0() -> None:
    assert choose_capabilities(RTX, ("12.0", "8.6", "8.6"), None) == ("8.6", "12.0")
    assert choose_capabilities(RTX, (), Gpu("RTX A4000", "8.6")) == ("8.6",)
    assert choose_capabilities(RTX, (), None) == ("8.0", "8.6", "12.0")


@pytest.mark.parametrize(
    ("name", "wanted", "gpu", "error", "message"),
    [
        ("tensorrt-rtx", ("8.6", "9.0"), None, UsageError, r"7\.5, 8\.0, 8\.6, 12\.0, got 9\.0"),
        ("tensorrt-rtx", (), Gpu("Orin", "8.7"), BackendError, r"Orin, 8\.7\), it offers 7\.5"),
        ("tensorrt", ("8.6",), Gpu("A4000", "8.6"), UsageError, "GPU in the box only, got 8.6"),
        ("tensorrt", (), None, BackendError, "none was found; build on the box itself"),
    ],
)
def test_a_capability_that_cannot_be_had_is_an_error(
    name: str, wanted: tuple[str, ...], gpu: Gpu | None, error: type[CffError], message: str
) -> None:
    flavour = RTX if name == "tensorrt-rtx" else _flavour(name, "10.3")

    with pytest.raises(error, match=message):
        choose_capabilities(flavour, wanted, gpu)


def test_tensorrt_builds_for_the_gpu_present() -> None:
    flavour = _flavour("tensorrt", "10.3")

    assert choose_capabilities(flavour, (), Gpu("Orin", "8.7")) == ("8.7",)


def test_a_flavour_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)

    with pytest.raises(MissingDependencyError, match=r"cff-edge\[tensorrt\]"):
        load_flavour("tensorrt")
    with pytest.raises(UsageError, match="one of tensorrt, tensorrt-rtx, got 'trt'"):
        load_flavour("trt")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flavour": "rtx"}, "`flavour` must be one of"),
        ({"sizes": {"image": (0, 0, 0)}}, "size of `image`.* got 0$"),
        ({"sizes": {"image": (4, 1, 8)}}, "got 4, 1, 8"),
        ({"sizes": {"bank": static(1 << 20)}}, "within 1 to 65536"),
        ({"workspace_mib": 0}, "workspace must be 1 to"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EngineSettings(**{"flavour": "tensorrt-rtx", **fields})


def test_settings_are_static_by_default() -> None:
    assert EngineSettings("tensorrt").sizes == {"bank": (1024,) * 3, "image": (1, 1, 1)}


def test_graph_hash_covers_the_weights_beside_it(tmp_path: Path) -> None:
    graph, weights = tmp_path / "encoder.fp32.onnx", tmp_path / "encoder.fp32.onnx.data"
    graph.write_bytes(b"graph")
    alone = graph_sha256(graph)
    weights.write_bytes(b"weights")
    together = graph_sha256(graph)
    weights.write_bytes(b"weightz")

    assert alone == hashlib.sha256(b"graph").hexdigest()
    assert len({alone, together, graph_sha256(graph)}) == 3
    with pytest.raises(UsageError, match="must be an ONNX file"):
        graph_sha256(tmp_path / "none.onnx")


def test_a_key_survives_json_and_every_field_changes_its_hash() -> None:
    others = [
        dataclasses.replace(KEY, **change)
        for change in (
            {"graph": "b" * 64},
            {"precision": "fp32"},
            {"flavour": "tensorrt"},
            {"version": "1.6"},
            {"compute_capabilities": ("8.6",)},
            {"gpu": "Orin"},
            {"sizes": (("image", (1, 4, 8)),)},
            {"tf32": True},
        )
    ]

    assert EngineKey.from_dict(KEY.to_dict()) == KEY
    assert len({key.short for key in (KEY, *others)}) == 1 + len(dataclasses.fields(KEY))
    assert len(KEY.short) == 12


@pytest.mark.parametrize(
    ("wanted", "gpu", "sentence"),
    [
        ({"graph": "b" * 64}, None, "was built from another graph"),
        ({"precision": "fp32"}, None, "was built as fp16, not fp32"),
        ({"flavour": "tensorrt"}, None, "was built by `tensorrt-rtx`, not `tensorrt`"),
        (
            {"version": "1.8"},
            None,
            "was built by TensorRT-RTX 1.7.1, this box has 1.8",
        ),
        (
            {"compute_capabilities": ("12.0",)},
            Gpu("RTX 5090", "12.0"),
            "was built for compute capability 8.6, 8.9, this GPU has 12.0",
        ),
        (
            {"compute_capabilities": ("8.0", "8.6")},
            None,
            "was built for compute capability 8.6, 8.9, not for 8.0",
        ),
        ({"gpu": "Orin"}, None, "was built on the GPU '', this box has 'Orin'"),
        (
            {"sizes": (("image", (1, 4, 8)),)},
            None,
            "was built for 1 rows of `image`, not for 1 to 8 (usually 4)",
        ),
        ({"sizes": ()}, None, "was built for 1 rows of `image`, not for a free number"),
        ({"tf32": True}, None, "was built with TF32 off"),
    ],
)
def test_a_foreign_key_is_explained_in_half_a_sentence(
    wanted: dict[str, Any], gpu: Gpu | None, sentence: str
) -> None:
    assert KEY.difference(dataclasses.replace(KEY, **wanted), gpu) == sentence


def test_an_engine_for_more_than_is_wanted_fits() -> None:
    needs_less = dataclasses.replace(
        KEY,
        compute_capabilities=("8.9",),
        sizes=(("bank", static(1024)), ("image", static(1))),
    )

    assert KEY.difference(needs_less) is None


@pytest.mark.parametrize(
    "change",
    [
        {"graph": 1},
        {"compute_capabilities": [8.6]},
        {"sizes": {"image": [1, 1]}},
        {"sizes": {"image": [1, 1, True]}},
        {"tf32": "no"},
    ],
)
def test_a_key_of_wrong_types_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="must"):
        EngineKey.from_dict({**KEY.to_dict(), **change})


def test_the_package_lists_its_names_and_loads_no_tensorrt(
    run_python: Callable[..., Any],
) -> None:
    code = (
        "import sys, cff_runtime.engines.command\n"
        "heavy = ('tensorrt', 'tensorrt_rtx', 'torch', 'onnx', 'onnxruntime')\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    assert run_python(code).stdout.strip() == "[]"
    names = cff_runtime.engines.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(cff_runtime.engines, name) for name in names)
