"""A Triton repository: its config against Triton's protobuf schema and the graph it describes."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from cff_export.hosts import TritonReport, check_external_data, external_data
from cff_export.hosts import write_triton_repository as write
from cff_export.hosts.prototext import Identifier, quote, write_message
from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import ProfileMismatchError, StorageError, UsageError

text_format = pytest.importorskip("google.protobuf.text_format")

# Triton's names of the types that a standalone graph has
TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
}
PLAN = b"ptrt" + bytes(100)


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's published messages, as the client's package carries them."""
    module: ModuleType = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return module


@pytest.fixture(scope="module", params=["lite", "vit"])
def case(
    request: pytest.FixtureRequest,
    exported: Callable[..., Any],
    good_parts: list[NDArray[np.uint8]],
) -> tuple[Bundle, Profile]:
    bundle = exported(request.param, "affine").bundle
    return bundle, Inspector.open(bundle.path).enroll(good_parts[:1], "ring")


@pytest.fixture(scope="module")
def vit(
    exported: Callable[..., Any], good_parts: list[NDArray[np.uint8]]
) -> tuple[Bundle, Profile]:
    bundle = exported("vit", "affine").bundle
    return bundle, Inspector.open(bundle.path).enroll(good_parts[:1], "ring")


@pytest.fixture
def fixed(vit: tuple[Bundle, Profile], tmp_path: Path) -> tuple[Bundle, Profile]:
    """A bundle whose encoder takes one image a run, as a dynamic int8 encoder does."""
    bundle, profile = vit
    model = onnx.load(bundle.file(bundle.manifest.encoder))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "batch":
                dim.dim_value = 1
    folder = tmp_path / "fixed"
    folder.mkdir()
    onnx.save(model, folder / "encoder.int8.onnx")
    files = {"encoder.int8.onnx": bundle.manifest.files[bundle.manifest.encoder]}
    manifest = replace(bundle.manifest, encoder="encoder.int8.onnx", files=files, precision="int8")
    return Bundle(folder, manifest), profile


def _parse(schema: ModuleType, report: TritonReport) -> Any:
    text = (report.path / "config.pbtxt").read_text(encoding="ascii")
    return text_format.Parse(text, schema.ModelConfig())


def _type_name(schema: ModuleType, value: int) -> str:
    name: str = schema.DataType.Name(value)
    return name


def _parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


# --- the config and the graph say the same


@pytest.mark.parametrize("max_batch_size", [None, 0, 1, 4])
def test_config_of_a_graph(
    schema: ModuleType, case: tuple[Bundle, Profile], tmp_path: Path, max_batch_size: int | None
) -> None:
    report = write(*case, tmp_path, model_name="ring", max_batch_size=max_batch_size)
    assert report.path == tmp_path / "ring"
    assert report.model == tmp_path / "ring" / "1" / "model.onnx"
    config = _parse(schema, report)
    assert (config.name, config.platform, config.backend) == (
        "ring",
        "onnxruntime_onnx",
        "onnxruntime",
    )
    assert config.default_model_filename == "model.onnx"
    largest = 8 if max_batch_size is None else max_batch_size
    assert config.max_batch_size == report.max_batch_size == largest
    graph = onnx.load(report.model).graph
    for given, expected in ((config.input, graph.input), (config.output, graph.output)):
        assert [tensor.name for tensor in given] == [value.name for value in expected]
        for tensor, value in zip(given, expected, strict=True):
            _check_tensor(schema, tensor, value, largest)
    assert [group.kind for group in config.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
    assert config.HasField("dynamic_batching") == (largest > 1)


def _check_tensor(schema: ModuleType, tensor: Any, value: Any, largest: int) -> None:
    assert _type_name(schema, tensor.data_type) == TYPES[value.type.tensor_type.elem_type]
    # a free dimension has a name and no value
    dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
    assert dims[0] == -1
    backend_dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
    assert backend_dims == (dims[1:] if largest else dims)
    assert tensor.dims  # Triton takes no tensor without dimensions
    assert int(np.prod(tensor.dims)) == int(np.prod(backend_dims))


def test_warm_up_runs_what_the_graph_takes(
    schema: ModuleType, case: tuple[Bundle, Profile], tmp_path: Path
) -> None:
    for name, largest, sizes in (("none", 0, (1,)), ("some", 6, (1, 2, 4, 6))):
        preferred = [4, 2] if largest else []
        report = write(
            *case,
            tmp_path,
            model_name=name,
            max_batch_size=largest,
            preferred_batch_sizes=preferred,
        )
        config = _parse(schema, report)
        assert tuple(sample.batch_size for sample in config.model_warmup) == sizes
        assert report.warmup_batches == sizes
        session = ort.InferenceSession(str(report.model), providers=["CPUExecutionProvider"])
        for sample in config.model_warmup:
            (key,) = sample.inputs
            assert key == "image"
            given = sample.inputs[key]
            assert _type_name(schema, given.data_type) == "TYPE_UINT8"
            assert given.random_data
            shape = [*([sample.batch_size] if largest else []), *given.dims]
            score = session.run(["score"], {key: np.zeros(shape, np.uint8)})[0]
            assert score.shape == (sample.batch_size,)


def test_batching_device_and_facts(
    schema: ModuleType, case: tuple[Bundle, Profile], tmp_path: Path
) -> None:
    bundle, profile = case
    odd = replace(profile, product='Düse "3\\4"\n\t\x7f')
    report = write(
        bundle,
        odd,
        tmp_path,
        model_name="nozzle-3",
        max_batch_size=16,
        queue_delay_us=250,
        preferred_batch_sizes=(4, 16),
        device="cpu",
        n_instances=2,
    )
    config = _parse(schema, report)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_CPU, 2)
    facts = _parameters(config)
    assert facts["cff_product"] == odd.product
    assert facts["cff_bundle_id"] == bundle.manifest.id
    assert float(facts["cff_threshold"]) == profile.threshold.value
    in_file = {p.key: p.value for p in onnx.load(report.model).metadata_props}
    assert facts == in_file


def test_accelerator(schema: ModuleType, vit: tuple[Bundle, Profile], tmp_path: Path) -> None:
    report = write(*vit, tmp_path, model_name="ring", max_batch_size=4, accelerator="tensorrt")
    accelerators = _parse(schema, report).optimization.execution_accelerators
    (accelerator,) = accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "FP32",
        "trt_profile_min_shapes": "image:1x64x64x3",
        "trt_profile_opt_shapes": "image:4x64x64x3",
        "trt_profile_max_shapes": "image:4x64x64x3",
    }


def test_plan(schema: ModuleType, vit: tuple[Bundle, Profile], tmp_path: Path) -> None:
    plan = tmp_path / "ring.plan"
    plan.write_bytes(PLAN)
    static = write(*vit, tmp_path / "models", model_name="one", platform="tensorrt", plan=plan)
    assert static.model.name == "model.plan"
    assert static.model.read_bytes() == PLAN
    config = _parse(schema, static)
    assert (config.platform, config.backend) == ("tensorrt_plan", "tensorrt")
    assert config.max_batch_size == 0
    dims = {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)}
    assert dims == {
        "image": [1, 64, 64, 3],
        "anomaly_map": [1, 64, 64],
        "score": [1],
        "reject": [1],
        "text_score": [1],
    }
    many = write(
        *vit,
        tmp_path / "models",
        model_name="many",
        platform="tensorrt",
        plan=plan,
        max_batch_size=4,
    )
    assert list(_parse(schema, many).input[0].dims) == [64, 64, 3]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["many", "one"]


def test_a_graph_of_fixed_batch(
    schema: ModuleType, fixed: tuple[Bundle, Profile], tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    report = write(*fixed, repository, model_name="ring")
    config = _parse(schema, report)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    graph = onnx.load(report.model).graph
    for tensor, value in zip(
        (*config.input, *config.output), (*graph.input, *graph.output), strict=True
    ):
        assert list(tensor.dims) == [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert tensor.dims[0] == 1
    for size in (1, 4):
        with pytest.raises(UsageError, match=rf"int8 encoder takes exactly 1 image.*got {size}"):
            write(*fixed, repository, model_name="other", max_batch_size=size)
    with pytest.raises(UsageError, match="ONNX graph of fp32"):
        write(*fixed, repository, model_name="other", accelerator="tensorrt")


def test_large_weights_keep_their_name(
    vit: tuple[Bundle, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "MAX_SINGLE_FILE_BYTES", 0)
    report = write(*vit, tmp_path, model_name="ring")
    names = sorted(path.name for path in report.model.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.data"]
    assert check_external_data(report.model) == report.model.with_name("model.onnx.data")


# --- refusals


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"model_name": "../up"}, "model's name must be"),
        ({"model_name": ".hidden"}, "model's name must be"),
        ({"model_name": ""}, "model's name must be"),
        ({"platform": "pytorch"}, "`platform` must be one of onnx, tensorrt"),
        ({"device": "tpu"}, "`device` must be one of gpu, cpu"),
        ({"accelerator": "openvino"}, "`accelerator` must be one of None, tensorrt"),
        ({"n_instances": 0}, "`n_instances` must be 1 or more"),
        ({"max_batch_size": -1}, "must be 0 to 64, got -1"),
        ({"max_batch_size": 65}, "must be 0 to 64, got 65"),
        ({"queue_delay_us": -1}, "`queue_delay_us` must be 0 or more"),
        ({"max_batch_size": 1, "queue_delay_us": 5}, "need a `max_batch_size` above 1"),
        ({"max_batch_size": 4, "preferred_batch_sizes": [2, 5]}, r"must be 1 to 4, got \[5\]"),
        ({"device": "cpu", "accelerator": "tensorrt"}, "GPU only"),
        ({"platform": "tensorrt"}, "plan must be given for the platform"),
        ({"plan": Path("x.plan")}, "plan must be given for the platform"),
        ({"platform": "tensorrt", "plan": Path("no.plan")}, "must be an engine file"),
    ],
)
def test_refused_choices(
    vit: tuple[Bundle, Profile], tmp_path: Path, choices: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write(*vit, tmp_path / "models", **{"model_name": "ring", **choices})
    assert not (tmp_path / "models").exists()


def test_refused_plans_profiles_and_places(
    vit: tuple[Bundle, Profile], lite_profile: Profile, tmp_path: Path
) -> None:
    bundle, _ = vit
    plan = tmp_path / "wrong.plan"
    for content, message in ((b"", "engine file"), (b"\x08\x09\x12", "ONNX file")):
        plan.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            write(*vit, tmp_path, model_name="ring", platform="tensorrt", plan=plan)
    with pytest.raises(ProfileMismatchError):
        write(bundle, lite_profile, tmp_path, model_name="ring")
    with pytest.raises(UsageError, match="outside the bundle"):
        write(*vit, bundle.path, model_name="ring")
    write(*vit, tmp_path, model_name="ring")
    before = (tmp_path / "ring" / "config.pbtxt").read_bytes()
    with pytest.raises(UsageError, match="must not exist yet"):
        write(*vit, tmp_path, model_name="ring", max_batch_size=2)
    assert (tmp_path / "ring" / "config.pbtxt").read_bytes() == before


def test_a_full_disk_leaves_no_model(
    vit: tuple[Bundle, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tmp_path / "ring.plan"
    plan.write_bytes(PLAN)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        write(*vit, tmp_path / "models", model_name="ring", platform="tensorrt", plan=plan)
    assert not list((tmp_path / "models").iterdir())


# --- the writer


def test_text_form() -> None:
    assert write_message(
        {"a": 1, "b": True, "c": Identifier("KIND_CPU"), "d": [], "e": [-1, 2]}
    ) == ("a: 1\nb: true\nc: KIND_CPU\nd: []\ne: [-1, 2]\n")
    assert write_message({"m": [{"k": "x"}, {"k": "y"}], "n": {"o": {}}}) == (
        'm {\n  k: "x"\n}\nm {\n  k: "y"\n}\nn {\n  o {\n  }\n}\n'
    )
    assert quote('ä"\\\n') == r'"\303\244\"\\\012"'


def test_every_string_survives(schema: ModuleType) -> None:
    text = "".join(chr(code) for code in (*range(1, 300), 0x20AC, 0x1F600)) + "\\n\\012\"'"
    parsed = text_format.Parse(write_message({"name": text}), schema.ModelConfig())
    assert parsed.name == text
