"""The configuration of a standalone graph in Triton: choices, their checks, and the message.

Triton batches along a first dimension that is free in every input and output; it refuses a
``max_batch_size`` above 0 for a graph whose batch is fixed. What is left of a score [B] without
its batch is no dimension at all, which Triton wants as ``dims: [1]`` reshaped to ``[]``.
"""

import re
from dataclasses import dataclass
from typing import Any

from cff_export.hosts.prototext import Identifier
from cff_export.hosts.standalone import product_facts
from cff_runtime.errors import UsageError
from cff_runtime.manifest import Manifest
from cff_runtime.profile import Profile

# platform -> (Triton's name, backend, file)
PLATFORMS = {
    "onnx": ("onnxruntime_onnx", "onnxruntime", "model.onnx"),
    "tensorrt": ("tensorrt_plan", "tensorrt", "model.plan"),
}
DEVICES = {"gpu": Identifier("KIND_GPU"), "cpu": Identifier("KIND_CPU")}
ACCELERATORS = ("tensorrt",)
MAX_BATCH = 64  # the encoder is exported for batches up to this
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the standalone graph; `dims` without the batch."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Serving:
    """How Triton is to run the model, see `cff_export.hosts.triton.write_triton_repository`.

    Attributes
    ----------
    batch : int or None
        Batch size that the graph or plan is fixed to; None where it is free.
    """

    name: str
    platform: str
    batch: int | None
    max_batch_size: int
    queue_delay_us: int
    preferred: tuple[int, ...]
    device: str
    n_instances: int
    accelerator: str | None


def check_choices(serving: Serving, manifest: Manifest) -> None:
    """Refuse what Triton would, or what is not true of the graph.

    Raises
    ------
    UsageError
    """
    if not _NAME.fullmatch(serving.name):
        raise UsageError(
            "the model's name must be letters, digits, `_`, `-` and `.`, "
            f"not beginning with `-` or `.`, got {serving.name!r:.80}"
        )
    for what, value, known in (
        ("platform", serving.platform, PLATFORMS),
        ("device", serving.device, DEVICES),
        ("accelerator", serving.accelerator, (None, *ACCELERATORS)),
    ):
        if value not in known:
            names = ", ".join(str(name) for name in known)
            raise UsageError(f"`{what}` must be one of {names}, got {value!r}")
    if serving.n_instances < 1:
        raise UsageError(f"`n_instances` must be 1 or more, got {serving.n_instances}")
    _check_batching(serving, manifest)
    if serving.device == "cpu" and (serving.platform, serving.accelerator) != ("onnx", None):
        raise UsageError("TensorRT runs on a GPU only; leave it out or choose the device `gpu`")
    if serving.accelerator and (serving.platform != "onnx" or manifest.precision != "fp32"):
        raise UsageError(
            "an accelerator must be given an ONNX graph of fp32, since it chooses precisions "
            f"itself, got {serving.platform} {manifest.precision}; leave it out"
        )


def _check_batching(serving: Serving, manifest: Manifest) -> None:
    largest = serving.max_batch_size
    if not 0 <= largest <= MAX_BATCH:
        raise UsageError(f"`max_batch_size` must be 0 to {MAX_BATCH}, got {largest}")
    if serving.batch is not None and largest:
        raise UsageError(
            f"`max_batch_size` must be 0, because the {manifest.precision} encoder takes exactly "
            f"{serving.batch} image a run, got {largest}; choose 0, or a precision whose batch is "
            "free"
        )
    if serving.queue_delay_us < 0:
        raise UsageError(f"`queue_delay_us` must be 0 or more, got {serving.queue_delay_us}")
    if largest <= 1 and (serving.queue_delay_us or serving.preferred):
        raise UsageError(
            f"a queue delay and preferred batch sizes need a `max_batch_size` above 1, "
            f"got {largest}"
        )
    wrong = [size for size in serving.preferred if not 1 <= size <= largest]
    if wrong:
        raise UsageError(f"preferred batch sizes must be 1 to {largest}, got {wrong}")


def model_config(serving: Serving, manifest: Manifest, profile: Profile) -> dict[str, Any]:
    """Return the fields of Triton's ModelConfig message."""
    platform, backend, file_name = PLATFORMS[serving.platform]
    image, outputs = _signature(manifest)
    config: dict[str, Any] = {
        "name": serving.name,
        "platform": platform,
        "backend": backend,
        "default_model_filename": file_name,
        "max_batch_size": serving.max_batch_size,
        "input": [_tensor_config(image, serving)],
        "output": [_tensor_config(tensor, serving) for tensor in outputs],
        "instance_group": [{"kind": DEVICES[serving.device], "count": serving.n_instances}],
    }
    if serving.max_batch_size > 1:
        preferred = {"preferred_batch_size": list(serving.preferred)} if serving.preferred else {}
        config["dynamic_batching"] = {
            **preferred,
            "max_queue_delay_microseconds": serving.queue_delay_us,
        }
    if serving.accelerator:
        config["optimization"] = _accelerator_config(serving, manifest)
    config["model_warmup"] = [
        _warmup_config(image, size, serving) for size in warmup_batches(serving)
    ]
    config["parameters"] = [
        {"key": key, "value": {"string_value": value}}
        for key, value in product_facts(manifest, profile).items()
    ]
    return config


def _signature(manifest: Manifest) -> tuple[_Tensor, list[_Tensor]]:
    """Return the one input and the outputs of a standalone graph."""
    height, width = manifest.preprocessing.height, manifest.preprocessing.width
    outputs = [
        _Tensor("anomaly_map", "TYPE_FP32", (height, width)),
        _Tensor("score", "TYPE_FP32", ()),
        _Tensor("reject", "TYPE_BOOL", ()),
    ]
    if manifest.score.output is not None:
        outputs.append(_Tensor(manifest.score.output, "TYPE_FP32", ()))
    return _Tensor("image", "TYPE_UINT8", (height, width, 3)), outputs


def _tensor_config(tensor: _Tensor, serving: Serving) -> dict[str, Any]:
    config: dict[str, Any] = {"name": tensor.name, "data_type": Identifier(tensor.data_type)}
    if serving.max_batch_size == 0:
        batch = -1 if serving.batch is None else serving.batch
        return {**config, "dims": [batch, *tensor.dims]}
    if not tensor.dims:
        return {**config, "dims": [1], "reshape": {"shape": []}}
    return {**config, "dims": list(tensor.dims)}


def warmup_batches(serving: Serving) -> tuple[int, ...]:
    """Return the batch sizes to run before the model is ready: one, the preferred, the largest."""
    return tuple(sorted({1, *serving.preferred, max(1, serving.max_batch_size)}))


def _warmup_config(image: _Tensor, batch_size: int, serving: Serving) -> dict[str, Any]:
    dims = list(image.dims)
    if serving.max_batch_size == 0:
        dims = [serving.batch or 1, *dims]
    data = {"data_type": Identifier(image.data_type), "dims": dims, "random_data": True}
    return {
        "name": f"batch of {batch_size}",
        "batch_size": batch_size,
        "inputs": {"key": image.name, "value": data},
    }


def _accelerator_config(serving: Serving, manifest: Manifest) -> dict[str, Any]:
    """Let ONNX Runtime's TensorRT provider compile for every batch size at once."""
    height, width = manifest.preprocessing.height, manifest.preprocessing.width
    largest = max(1, serving.max_batch_size)
    shapes = {
        f"trt_profile_{bound}_shapes": f"image:{size}x{height}x{width}x3"
        for bound, size in (("min", 1), ("opt", largest), ("max", largest))
    }
    options = {"precision_mode": "FP32", **shapes}
    return {
        "execution_accelerators": {
            "gpu_execution_accelerator": [
                {
                    "name": serving.accelerator,
                    "parameters": [{"key": k, "value": v} for k, v in options.items()],
                }
            ]
        }
    }
