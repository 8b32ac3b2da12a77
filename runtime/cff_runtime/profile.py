"""A profile: everything about one product, in one safetensors file.

Tensors `bank_0` .. `bank_{S-1}` [M_s,C_s] float32 unit rows, reference by reference, and `text`
[C,2] float32. Facts stand as JSON under the metadata key `cff_profile`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cff_runtime.errors import ProfileError, ProfileMismatchError, UsageError
from cff_runtime.jsonfields import parse_object, take, take_floats
from cff_runtime.manifest import MAX_STAGES, Manifest
from cff_runtime.storage import atomic_write
from cff_runtime.thresholds import Threshold

SCHEMA_VERSION = 1
METADATA_KEY = "cff_profile"
MAX_BANK_BYTES = 1 << 34
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Profile:
    """Memory bank, text vectors and threshold of one product.

    Attributes
    ----------
    product : str
        Name of the product.
    bundle_id : str
        Id of the bundle that made the profile; no other bundle accepts it.
    banks : tuple of S ndarrays of shape (M_s, C_s), float32
        Unit rows, the N_s rows of the first reference first.
    text : ndarray of shape (C, 2), float32
        Text vectors, column 0 normal, column 1 abnormal.
    n_references : int
        K.
    threshold : Threshold
        The decision rule and how it was set.
    display_range : tuple of float
        Lowest and highest map value of the colour scale, the same for every picture.
    peak_scale : float
        Factor of the map's maximum in the image score; used with a text tower only.
    text_name : str
        Class word of `text`.
    history : tuple of dict
        What was done to the profile and when.
    """

    product: str
    bundle_id: str
    banks: tuple[NDArray[np.float32], ...]
    text: NDArray[np.float32]
    n_references: int
    threshold: Threshold
    display_range: tuple[float, float]
    peak_scale: float
    text_name: str
    history: tuple[dict[str, Any], ...]

    def save(self, path: Path | str) -> None:
        """Write the profile to a temporary file and rename it.

        Raises
        ------
        StorageError
            If it cannot be written; an existing profile stays as it was.
        """
        facts = {
            "schema_version": SCHEMA_VERSION,
            "product": self.product,
            "bundle_id": self.bundle_id,
            "n_references": self.n_references,
            "threshold": asdict(self.threshold),
            "display_range": list(self.display_range),
            "peak_scale": self.peak_scale,
            "text_name": self.text_name,
            "history": list(self.history),
        }
        tensors = {f"bank_{stage}": bank for stage, bank in enumerate(self.banks)}
        tensors["text"] = self.text
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        atomic_write(Path(path), save(contiguous, metadata={METADATA_KEY: json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path | str) -> "Profile":
        """Read a profile and check its fields, types, shapes and values.

        Raises
        ------
        UsageError
            If there is no such file.
        ProfileError
            If the file is truncated, damaged or not a profile.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(
                f"profile `{path}` must be an existing file; make one with `cff-run enroll`"
            )
        try:
            facts, tensors = _read(path)
            return _parse(facts, tensors)
        except ProfileError as error:
            raise ProfileError(f"`{path}`: {error}; copy it again or enrol again") from error

    def precision_in(self, manifest: Manifest) -> str:
        """Return the precision of a bundle that the profile was enrolled with.

        Raises
        ------
        ProfileMismatchError
            If it is none of them, or the shapes do not fit.
        """
        for precision in manifest.precisions:
            view = manifest.view(precision)
            if view.id == self.bundle_id:
                self.require_bundle(view)
                return precision
        raise self._mismatch(manifest)

    def require_bundle(self, manifest: Manifest) -> None:
        """Check that the profile belongs to a bundle.

        Raises
        ------
        ProfileMismatchError
            If the bundle's id differs or the shapes do not fit.
        """
        if self.bundle_id != manifest.id:
            raise self._mismatch(manifest)
        expected = [stage.width for stage in manifest.stages]
        got = [bank.shape[1] for bank in self.banks]
        if got != expected:
            raise ProfileMismatchError(
                f"memory banks of `{self.product}` must have widths {expected}, got {got}; "
                "enrol the product again"
            )
        if self.text.shape != (manifest.joint_dim, 2):
            raise ProfileMismatchError(
                f"text vectors of `{self.product}` must have shape {(manifest.joint_dim, 2)}, "
                f"got {self.text.shape}; enrol the product again"
            )

    def _mismatch(self, manifest: Manifest) -> ProfileMismatchError:
        return ProfileMismatchError(
            f"profile of `{self.product}` belongs to bundle {self.bundle_id[:12]}, "
            f"this is bundle {manifest.id[:12]} (another encoder, precision or "
            "preprocessing); enrol the product again with this bundle"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise ProfileError("must be a profile, this safetensors file is none")
            names = list(file.keys())
            _check_types({name: file.get_slice(name) for name in names})
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ProfileError(f"must be a complete safetensors file: {error}") from error
    return parse_object(metadata[METADATA_KEY], "metadata", ProfileError), tensors


def _check_types(slices: Mapping[str, Any]) -> None:
    """Refuse, before anything is read, what is no float32 matrix or takes too much memory."""
    n_bytes = 0
    for name, tensor in slices.items():
        dtype, shape = tensor.get_dtype(), tensor.get_shape()
        if dtype != "F32" or len(shape) != 2:
            raise ProfileError(f"`{name}` must be a float32 matrix, got {dtype} {shape}")
        n_bytes += 4 * shape[0] * shape[1]
    if n_bytes > MAX_BANK_BYTES:
        raise ProfileError(f"tensors must take at most {MAX_BANK_BYTES} bytes, got {n_bytes}")


def _parse(facts: dict[str, Any], tensors: dict[str, NDArray[np.float32]]) -> Profile:
    version = take(facts, "schema_version", int, ProfileError)
    if version != SCHEMA_VERSION:
        raise ProfileError(f"`schema_version` must be {SCHEMA_VERSION}, got {version}")
    text = tensors.pop("text", None)
    n_stages = len(tensors)
    names = [f"bank_{stage}" for stage in range(n_stages)]
    if text is None or not 1 <= n_stages <= MAX_STAGES or set(names) != set(tensors):
        raise ProfileError("tensors must be `text` and `bank_0` to `bank_{S-1}`")
    if not np.isfinite(text).all():
        raise ProfileError("`text` must be finite")
    for name in names:
        norms = np.linalg.norm(tensors[name], axis=1)
        if not norms.size or not np.abs(norms - 1.0).max() <= _UNIT_TOLERANCE:  # NaN fails too
            raise ProfileError(f"rows of `{name}` must have unit length")
    n_references = take(facts, "n_references", int, ProfileError)
    if n_references < 1:
        raise ProfileError(f"`n_references` must be 1 or more, got {n_references}")
    display = take_floats(facts, "display_range", ProfileError)
    if len(display) != 2 or not display[0] < display[1]:
        raise ProfileError(f"`display_range` must be two rising numbers, got {display!r:.80}")
    history = take(facts, "history", list, ProfileError)
    if not all(isinstance(entry, dict) for entry in history):
        raise ProfileError(f"every entry of `history` must be an object, got {history!r:.80}")
    return Profile(
        product=take(facts, "product", str, ProfileError),
        bundle_id=take(facts, "bundle_id", str, ProfileError),
        banks=tuple(tensors[name] for name in names),
        text=text,
        n_references=n_references,
        threshold=Threshold.from_dict(take(facts, "threshold", dict, ProfileError)),
        display_range=(display[0], display[1]),
        peak_scale=take(facts, "peak_scale", float, ProfileError),
        text_name=take(facts, "text_name", str, ProfileError),
        history=tuple(history),
    )
