"""What a bundle needs of the box that runs it: precisions, memory, disk."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cff_runtime.bundle import Bundle
from cff_runtime.manifest import Manifest

N_REFERENCES = 4  # the K that memory banks are estimated for
MEBIBYTE = 1 << 20

# Measured with ONNX Runtime 1.31 on a CPU: Python, NumPy and ONNX Runtime take 44 MiB; loading and
# one run of EfficientNet-Lite0 (13 MiB of weights, 256 px) took 55 MiB more, of ViT-B-16
# (335 MiB, 224 px) 474 MiB more. The estimates lie 3 % and 13 % above.
_PROCESS_BYTES = 45 * MEBIBYTE
_LOADED_PER_WEIGHT_BYTE = 1.5
_WORKSPACE_BYTES = 24 * MEBIBYTE
_WORKSPACE_PER_PIXEL_BYTES = 200
_ATTENTION_HEAD_WIDTH = 64
_ATTENTION_COPIES = 2  # scores and their softmax, float32
# TensorRT-RTX 1.7 took 1,201 MiB to build ViT-B-16 and gave an engine of 338 MiB.
_BUILD_PER_WEIGHT_BYTE = 4.0
_BUILD_BYTES = 256 * MEBIBYTE


@dataclass(frozen=True)
class PrecisionNeeds:
    """The encoder in one precision: its graph, its size, the blocks kept in fp32."""

    precision: str
    encoder: str
    weight_bytes: int
    kept_fp32: tuple[str, ...]


@dataclass(frozen=True)
class BundleNeeds:
    """What one bundle needs.

    Attributes
    ----------
    path, id : str
    schema_version : int
    backbone : str
        Its name.
    is_transformer : bool
        Or with a transformer behind its trunk.
    height, width : int
        Input size of the network in pixels.
    precisions : tuple of PrecisionNeeds
        fp32 first.
    bank_bytes_per_reference : int
        Memory banks of all stages for one good part, float32.
    workspace_bytes : int
        Estimated activations of the encoder.
    """

    path: str
    id: str
    schema_version: int
    backbone: str
    is_transformer: bool
    height: int
    width: int
    precisions: tuple[PrecisionNeeds, ...]
    bank_bytes_per_reference: int
    workspace_bytes: int

    @property
    def bank_bytes(self) -> int:
        """Memory banks of a profile of `N_REFERENCES` good parts."""
        return N_REFERENCES * self.bank_bytes_per_reference

    def of(self, precision: str) -> PrecisionNeeds | None:
        """Return the needs of one precision, None if the bundle has it not."""
        return next((p for p in self.precisions if p.precision == precision), None)

    def cpu_bytes(self, precision: str) -> int:
        """Estimate the memory of the process that runs a precision on the CPU."""
        weights = self._weight_bytes(precision)
        if precision.startswith("fp16"):
            weights *= 2  # ONNX Runtime widens it
        loaded = round(_LOADED_PER_WEIGHT_BYTE * weights)
        return _PROCESS_BYTES + loaded + self.workspace_bytes + self.bank_bytes

    def gpu_bytes(self, precision: str) -> int:
        """Estimate the GPU memory that running a precision takes; never measured on a GPU."""
        return self._weight_bytes(precision) + self.workspace_bytes + self.bank_bytes

    def build_bytes(self, precision: str) -> int:
        """Estimate the memory that building an engine takes."""
        return _BUILD_BYTES + round(_BUILD_PER_WEIGHT_BYTE * self._weight_bytes(precision))

    def to_dict(self) -> dict[str, Any]:
        """Return the needs and their estimates, ready for JSON."""
        estimates = {
            p.precision: {
                "cpu_bytes": self.cpu_bytes(p.precision),
                "gpu_bytes": self.gpu_bytes(p.precision),
                "build_bytes": self.build_bytes(p.precision),
            }
            for p in self.precisions
        }
        return {**asdict(self), "bank_bytes": self.bank_bytes, "estimates": estimates}

    def _weight_bytes(self, precision: str) -> int:
        needs = self.of(precision) or self.precisions[0]
        return needs.weight_bytes


def read_needs(path: Path) -> BundleNeeds:
    """Read what a bundle needs; every file's hash is checked.

    Raises
    ------
    UsageError, BundleError
        As `Bundle.open`.
    """
    manifest = Bundle.open(path).manifest
    size = manifest.preprocessing
    return BundleNeeds(
        path=str(path),
        id=manifest.id,
        schema_version=manifest.schema_version,
        backbone=str(manifest.backbone.get("name", "unknown")),
        is_transformer=_has_attention(manifest),
        height=size.height,
        width=size.width,
        precisions=tuple(_precision(manifest, name) for name in manifest.precisions),
        bank_bytes_per_reference=sum(4 * s.n_tokens * s.width for s in manifest.searched),
        workspace_bytes=_workspace_bytes(manifest),
    )


def _precision(manifest: Manifest, precision: str) -> PrecisionNeeds:
    view = manifest.view(precision)
    names = (view.encoder, f"{view.encoder}.data")
    n_bytes = sum(view.files[name].n_bytes for name in names if name in view.files)
    variant = manifest.variants.get(precision)
    return PrecisionNeeds(
        precision, view.encoder, n_bytes, () if variant is None else variant.kept_fp32
    )


def _workspace_bytes(manifest: Manifest) -> int:
    size = manifest.preprocessing
    attention = 0
    if _has_attention(manifest):
        n_tokens = max(stage.n_tokens for stage in manifest.stages)
        heads = _trunk_width(manifest.backbone) // _ATTENTION_HEAD_WIDTH
        attention = 4 * _ATTENTION_COPIES * heads * n_tokens**2
    return _WORKSPACE_BYTES + _WORKSPACE_PER_PIXEL_BYTES * size.height * size.width + attention


def _has_attention(manifest: Manifest) -> bool:
    """Whether the encoder is a transformer, or has one behind its trunk."""
    facts = [entry for entry in manifest.passes if isinstance(entry, Mapping)]
    split = any(p.get("pass") == "split_attention" and p.get("applied") for p in facts)
    return split or str(manifest.backbone.get("activation", "")).endswith("gelu")


def _trunk_width(backbone: Mapping[str, Any]) -> int:
    stages = backbone.get("stages", [])
    widths = [stage.get("width", 0) for stage in stages if isinstance(stage, dict)]
    return max([width for width in widths if isinstance(width, int)], default=0)
