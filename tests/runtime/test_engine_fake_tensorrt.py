"""The flavour `tensorrt`, which cannot be installed here, against a fake of its Python API.

The fake has what NVIDIA documents for each version and nothing else, so that a call of something
that a version lacks fails. It builds nothing: it records what it was told.
"""

import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cff_runtime.engines import BuiltEngine, EngineSettings, EngineStore, Gpu, build_engine
from cff_runtime.engines import builder as builder_module
from cff_runtime.errors import BackendError

ORIN = Gpu("Orin", "8.7")
FP16_LAYERS = [
    ("image_cast", "CAST", "HALF"),
    ("weight", "CONSTANT", "HALF"),
    ("blocks.0/Conv_1", "CONVOLUTION", "HALF"),
    ("encoder/Softmax_2", "SOFTMAX", "FLOAT"),
    ("encoder/Shape_3", "SHAPE", "INT64"),
]
INT8_LAYERS = [
    ("quantize", "QUANTIZE", "INT8"),
    ("dequantize", "DEQUANTIZE", "FLOAT"),
    ("broadcast", "SHUFFLE", "FLOAT"),
    ("blocks.0/MatMul_1", "MATRIX_MULTIPLY", "FLOAT"),
    ("blocks.1/MatMul_2", "MATRIX_MULTIPLY", "FLOAT"),
]


class Record(SimpleNamespace):
    """What the fake was told."""


def _enum(name: str, *members: str) -> Any:
    make: Any = Enum  # the members are not literals, which a checker wants
    return make(name, [(member, index) for index, member in enumerate(members)], type=int)


class Tensor:
    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    def __init__(self, name: str, kind: str, dtype: Any, before: Tensor) -> None:
        self.name, self.type, self.num_outputs = name, SimpleNamespace(name=kind), 1
        self.precision: Any = None
        self.output_types: dict[int, Any] = {}
        self._before, self._out = before, Tensor(f"{name}_out", (1,), dtype)

    def get_input(self, _index: int) -> Tensor:
        return self._before

    def get_output(self, _index: int) -> Tensor:
        return self._out

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_types[index] = dtype


def _make_network(trt: Any, layers: list[tuple[str, str, str]]) -> Any:
    image = Tensor("image", (-1, 8, 8, 3))
    made: list[Layer] = []
    for name, kind, dtype in layers:
        before = made[-1].get_output(0) if made and name != "blocks.1/MatMul_2" else image
        made.append(Layer(name, kind, trt.DataType[dtype], before))
    return SimpleNamespace(
        layers=made,
        image=image,
        num_inputs=1,
        num_outputs=1,
        num_layers=len(made),
        get_input=lambda _index: image,
        get_layer=lambda index: made[index],
    )


class Config:
    """`IBuilderConfig` of 8.6; a version sets further attributes."""

    def __init__(self, record: Record) -> None:
        self._record = record
        record.flags, record.pools = {"TF32"}, {}
        self._cache: Any = None
        self.profiling_verbosity = "LAYER_NAMES_ONLY"
        self.progress_monitor: Any = None

    def set_flag(self, flag: Any) -> None:
        self._record.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._record.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, n_bytes: int) -> None:
        self._record.pools[pool.name] = n_bytes

    def create_timing_cache(self, stored: bytes) -> Any:
        return None if stored == b"damaged" else SimpleNamespace(serialize=lambda: stored + b"+")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def add_optimization_profile(self, profile: Any) -> int:
        self._record.profile = profile.shapes
        return 0


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


def make_tensorrt(version: str, layers: list[tuple[str, str, str]], record: Record) -> ModuleType:
    """Return a module that looks like TensorRT of that version and parses any file to `layers`."""
    trt: Any = ModuleType("tensorrt")
    major = int(version.split(".")[0])
    trt.__version__ = version
    trt.DataType = _enum("DataType", "FLOAT", "HALF", "INT8", "INT32", "INT64")
    creation = {8: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED")}
    trt.NetworkDefinitionCreationFlag = _enum("Flag", *creation.get(major, ("STRONGLY_TYPED",)))
    weak = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS") if major < 11 else ()
    trt.BuilderFlag = _enum("BuilderFlag", *weak, "TF32")
    trt.MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE")
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
    trt.LayerInformationFormat = SimpleNamespace(JSON="JSON")
    severity = _enum("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    trt.ILogger = type("ILogger", (), {"Severity": severity})
    if major >= 10:
        trt.IProgressMonitor = type("IProgressMonitor", (), {})

    def build(network: Any, config: Config) -> Any:
        record.logger.log(severity.WARNING, "Detected layernorm nodes in FP16.")
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building engine", None, 1)
            if not config.progress_monitor.step_complete("Building engine", 0):
                return None
        record.config, record.network = config, network
        return record.plan

    def create_network(flags: int) -> Any:
        record.network_flags = flags
        return _make_network(trt, layers)

    def make_builder(given: Any) -> Any:
        record.logger = given
        if record.broken_driver:
            given.log(severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: Config(record),
            create_optimization_profile=Profile,
            build_serialized_network=build,
        )

    trt.Builder = make_builder
    trt.OnnxParser = lambda _network, given: record.make_parser(given, severity)
    inspector = SimpleNamespace(get_engine_information=lambda _format: '{"Layers": ["conv"]}')
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt.Runtime = lambda _logger: SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine)
    return trt


def _accepting_parser(_logger: Any, _severity: Any) -> Any:
    return SimpleNamespace(parse_from_file=lambda _path: True, num_errors=0)


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Record:
    for module in ("builder", "store", "validity"):
        monkeypatch.setattr(f"cff_runtime.engines.{module}.find_gpu", lambda: ORIN)
    return Record(plan=b"plan", broken_driver=False, make_parser=_accepting_parser)


Build = Callable[..., BuiltEngine]


@pytest.fixture
def build(record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Build:
    """Return ``build(version, layers, precision="fp16", **settings)``."""

    def run(
        version: str, layers: list[tuple[str, str, str]], precision: str = "fp16", **settings: Any
    ) -> BuiltEngine:
        monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, layers, record))
        graph = tmp_path / f"encoder.{precision}.onnx"
        graph.write_bytes(b"onnx")
        progress = settings.pop("progress", None)
        return build_engine(
            graph,
            tmp_path / "engines",
            EngineSettings("tensorrt", **settings),
            precision,
            progress,
        )

    return run


def test_8_6_is_asked_for_each_precision_and_the_report_says_so(
    build: Build, record: Record
) -> None:
    engine = build("8.6.1", FP16_LAYERS)

    half, full = record.network.layers[2], record.network.layers[3]
    assert record.network_flags == 0b1
    assert record.flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert (half.precision.name, full.precision.name) == ("HALF", "FLOAT")
    assert half.output_types == {0: half.precision}
    untouched = [record.network.layers[index] for index in (0, 1, 4)]
    assert all(layer.precision is None and not layer.output_types for layer in untouched)
    assert engine.typing == "weak"
    assert any("8.6.1 is weakly typed" in note and "obeyed" in note for note in engine.notes)
    assert any("tells no progress" in note for note in engine.notes)


def test_8_6_leaves_a_quantised_graph_to_its_q_dq_nodes(build: Build, record: Record) -> None:
    engine = build("8.6.1", INT8_LAYERS, "int8-qdq")

    assert record.flags == {"INT8"}
    assert all(layer.precision is None for layer in record.network.layers)
    assert any("Q/DQ nodes alone" in note for note in engine.notes)


def test_8_6_in_fp32_gets_no_flag(build: Build, record: Record) -> None:
    engine = build("8.6.1", FP16_LAYERS[3:], "fp32")

    assert record.flags == set()
    assert engine.n_kept_fp32 == 0


@pytest.mark.parametrize(("version", "flags"), [("10.3.0", 0b10), ("11.1.0", 0b1)])
def test_later_versions_are_strongly_typed(
    version: str, flags: int, build: Build, record: Record
) -> None:
    engine = build(version, FP16_LAYERS)

    assert record.network_flags == flags
    assert record.flags == set()  # and no TF32
    assert all(layer.precision is None for layer in record.network.layers)
    assert (engine.typing, engine.notes) == ("strong", ())
    assert engine.n_by_type == {"HALF": 2, "FLOAT": 1, "INT64": 1}
    report = json.loads(engine.layers_path.read_text())
    assert report["kept_fp32"] == ["encoder/Softmax_2"]
    assert [layer["name"] for layer in report["layers"]] == [
        name for name, kind, _ in FP16_LAYERS if kind != "CONSTANT"
    ]


def test_a_product_without_quantised_inputs_is_told_as_kept_in_fp32(build: Build) -> None:
    engine = build("10.3.0", INT8_LAYERS, "int8-qdq")

    assert json.loads(engine.layers_path.read_text())["kept_fp32"] == ["blocks.1/MatMul_2"]


def test_the_key_names_the_gpu_and_its_capability(build: Build) -> None:
    key = build("10.3.0", FP16_LAYERS).key

    assert (key.gpu, key.compute_capabilities, key.version) == ("Orin", ("8.7",), "10.3.0")


def test_an_engine_is_static_by_default(build: Build, record: Record) -> None:
    build("10.3.0", FP16_LAYERS)

    assert record.network.image.shape == (1, 8, 8, 3)
    assert not hasattr(record, "profile")


def test_settings_reach_the_builder(build: Build, record: Record) -> None:
    engine = build("10.3.0", FP16_LAYERS, sizes={"image": (1, 4, 8)}, workspace_mib=512, tf32=True)

    assert record.pools == {"WORKSPACE": 512 * 1024 * 1024}
    assert record.flags == {"TF32"}
    assert record.profile == {"image": ((1, 8, 8, 3), (4, 8, 8, 3), (8, 8, 8, 3))}
    assert record.network.image.shape == (-1, 8, 8, 3)
    assert engine.key.sizes == (("image", (1, 4, 8)),)


def test_the_timing_cache_grows_from_build_to_build(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "engines" / "timing.tensorrt.10.3.0.8.7.cache"

    build("10.3.0", FP16_LAYERS)
    assert path.read_bytes() == b"+"
    build("10.3.0", FP16_LAYERS)
    assert path.read_bytes() == b"++"


def test_a_damaged_timing_cache_is_begun_anew_and_told(build: Build, tmp_path: Path) -> None:
    path = tmp_path / "engines" / "timing.tensorrt.10.3.0.8.7.cache"
    path.parent.mkdir()
    path.write_bytes(b"damaged")

    engine = build("10.3.0", FP16_LAYERS)

    assert path.read_bytes() == b"+"
    assert any("begun anew" in note for note in engine.notes)


def test_warnings_are_kept_and_the_engine_is_found_again(build: Build, tmp_path: Path) -> None:
    engine = build("10.3.0", FP16_LAYERS)

    assert engine.warnings == ("Detected layernorm nodes in FP16.",)
    assert engine.path.read_bytes() == b"plan"
    found = EngineStore(tmp_path / "engines").find(engine.key)
    assert (found.path, found.warnings) == (engine.path, engine.warnings)


def test_inspection_adds_what_the_layers_became(build: Build, record: Record) -> None:
    engine = build("10.3.0", FP16_LAYERS, inspect=True)

    assert record.config.profiling_verbosity == "DETAILED"
    assert json.loads(engine.layers_path.read_text())["engine"] == {"Layers": ["conv"]}


def test_a_graph_called_fp16_without_fp16_layers_is_refused(build: Build) -> None:
    with pytest.raises(BackendError, match="must have HALF layers, this one has FLOAT, INT64"):
        build("10.3.0", FP16_LAYERS[3:])


def test_a_broken_driver_is_told_in_tensorrts_words(build: Build, record: Record) -> None:
    record.broken_driver = True

    with pytest.raises(BackendError, match="cannot start: CUDA initialization failure with err"):
        build("10.3.0", FP16_LAYERS)


def test_no_plan_is_an_error_and_leaves_nothing(
    build: Build, record: Record, tmp_path: Path
) -> None:
    record.plan = None

    with pytest.raises(BackendError, match=r"could not build .*TensorRT gives no reason"):
        build("10.3.0", FP16_LAYERS)
    assert not (tmp_path / "engines").exists()


def test_a_gpu_is_needed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "find_gpu", lambda: None)

    with pytest.raises(BackendError, match="must have an NVIDIA GPU"):
        build("10.3.0", FP16_LAYERS)


def test_an_old_parser_prints_the_node_that_it_fails_at(build: Build, record: Record) -> None:
    printed = 'input: "a" output: "b" name: "blocks.0/Wobble_1" op_type: "Wobble"'

    def refuse(logger: Any, severity: Any) -> Any:
        logger.log(severity.ERROR, "ModelImporter.cpp:771: While parsing node number 1 [Wobble]:")
        logger.log(severity.ERROR, f"ModelImporter.cpp:773: {printed}")
        error = SimpleNamespace(
            code=lambda: SimpleNamespace(name="UNSUPPORTED_NODE"),
            desc=lambda: "No importer registered for op: Wobble",
            node=lambda: 1,
        )
        return SimpleNamespace(
            parse_from_file=lambda _path: False, num_errors=1, get_error=lambda _index: error
        )

    record.make_parser = refuse

    with pytest.raises(
        BackendError,
        match=r"node `blocks.0/Wobble_1` \(Wobble\): unsupported node: No importer registered",
    ):
        build("8.6.1", FP16_LAYERS)
