"""A model repository of NVIDIA Triton Inference Server around a standalone graph.

<out>/<name>/config.pbtxt      signature, batching, warm-up, the product's facts as parameters
<out>/<name>/1/model.onnx      the standalone graph, its weights beside it where they are large
<out>/<name>/1/model.plan      or an engine that TensorRT built from such a graph
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cff_export.hosts.prototext import write_message
from cff_export.hosts.staging import require_outside, staged_folder
from cff_export.hosts.standalone import batch_of, load_encoder, write_standalone
from cff_export.hosts.triton_config import (
    PLATFORMS,
    Serving,
    check_choices,
    model_config,
    warmup_batches,
)
from cff_runtime.bundle import Bundle
from cff_runtime.errors import UsageError
from cff_runtime.profile import Profile

DEFAULT_MAX_BATCH = 8
_VERSION = "1"
_ONNX_HEAD = b"\x08"  # its first field, a number; an engine begins with letters
# seen in engines of TensorRT-RTX 1.7; releases of TensorRT itself count from 8 upwards
_RTX_MAGIC, _RTX_MAJOR_OFFSET, _FIRST_TENSORRT_MAJOR = b"vtrt", 24, 8


@dataclass(frozen=True)
class TritonReport:
    """What was written.

    Attributes
    ----------
    path : Path
        Folder of the model inside the repository.
    model : Path
        Graph or plan.
    max_batch_size : int
        As configured; 0 where Triton does not batch.
    warmup_batches : tuple of int
        Batch sizes that run before the model is ready.
    """

    path: Path
    model: Path
    max_batch_size: int
    warmup_batches: tuple[int, ...]


def write_triton_repository(
    bundle: Bundle,
    profile: Profile,
    out: Path,
    *,
    model_name: str,
    platform: str = "onnx",
    max_batch_size: int | None = None,
    queue_delay_us: int = 0,
    preferred_batch_sizes: Sequence[int] = (),
    device: str = "gpu",
    n_instances: int = 1,
    accelerator: str | None = None,
    plan: Path | None = None,
) -> TritonReport:
    """Write a product as a model of a Triton repository; it appears complete or not at all.

    Parameters
    ----------
    bundle : Bundle
    profile : Profile
        Of this bundle.
    out : Path
        The repository; other models in it stay as they are.
    model_name : str
        Name and folder of the model.
    platform : {'onnx', 'tensorrt'}
    max_batch_size : int, optional
        Largest batch that Triton makes; 0 for none. By default 8, and 0 where the graph's batch is
        fixed or the model is a plan, which is static unless it was built with a profile.
    queue_delay_us : int
        How long a request may wait for others, in microseconds.
    preferred_batch_sizes : sequence of int
        Batch sizes to wait for; all are good if empty.
    device : {'gpu', 'cpu'}
    n_instances : int
        Copies of the model on every device.
    accelerator : {None, 'tensorrt'}
        Let ONNX Runtime build TensorRT engines on the server.
    plan : Path, optional
        For ``tensorrt``: engine that TensorRT built from the standalone graph of this profile. It
        can be opened on its GPU only, so that nothing about it is checked here.

    Raises
    ------
    ProfileMismatchError
        If the profile belongs to another bundle.
    UsageError
        If a choice is unknown, does not fit the graph, or the model exists already.
    StorageError
        If a file cannot be written.
    """
    out = Path(out)
    profile.require_bundle(bundle.manifest)
    batch = batch_of(load_encoder(bundle))
    if max_batch_size is None:
        max_batch_size = DEFAULT_MAX_BATCH if batch is None and platform == "onnx" else 0
    serving = Serving(
        name=model_name,
        platform=platform,
        batch=1 if platform == "tensorrt" and max_batch_size == 0 else batch,
        max_batch_size=max_batch_size,
        queue_delay_us=queue_delay_us,
        preferred=tuple(preferred_batch_sizes),
        device=device,
        n_instances=n_instances,
        accelerator=accelerator,
    )
    check_choices(serving, bundle.manifest)
    _check_plan(platform, plan)
    final = out / model_name
    require_outside(final, bundle.path)
    if final.exists():
        raise UsageError(f"`{final}` must not exist yet; remove it or choose another model name")
    file_name = PLATFORMS[platform][2]
    with staged_folder(final) as work:
        folder = work / _VERSION
        folder.mkdir()
        if plan is None:
            write_standalone(bundle, profile, folder / file_name)
        else:
            shutil.copyfile(plan, folder / file_name)
        config = write_message(model_config(serving, bundle.manifest, profile))
        (work / "config.pbtxt").write_text(config, encoding="ascii")
        work.rename(final)
    return TritonReport(
        path=final,
        model=final / _VERSION / file_name,
        max_batch_size=max_batch_size,
        warmup_batches=warmup_batches(serving),
    )


def _check_plan(platform: str, plan: Path | None) -> None:
    if (platform == "tensorrt") != (plan is not None):
        raise UsageError("a plan must be given for the platform `tensorrt`, and for no other")
    if plan is None:
        return
    if not plan.is_file() or not plan.stat().st_size:
        raise UsageError(
            f"plan `{plan}` must be an engine file; build one from the standalone graph on the "
            "target, see docs/hosts.md"
        )
    with plan.open("rb") as file:
        head = file.read(_RTX_MAJOR_OFFSET + 1)
    if head.startswith(_ONNX_HEAD):
        raise UsageError(f"plan `{plan}` must be an engine, got an ONNX file; leave `plan` out")
    is_versioned = head.startswith(_RTX_MAGIC) and len(head) > _RTX_MAJOR_OFFSET
    if is_versioned and head[_RTX_MAJOR_OFFSET] < _FIRST_TENSORRT_MAJOR:
        raise UsageError(
            f"plan `{plan}` must be an engine of TensorRT, got one of TensorRT-RTX, which Triton "
            "has no backend for; build it with trtexec on the target"
        )
