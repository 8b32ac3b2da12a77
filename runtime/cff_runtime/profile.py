"""A profile: everything about one product, in one safetensors file.

Tensors `bank_0` .. `bank_{S-1}` [M_s,C_s] float32 unit rows, reference by reference, or none where
nothing is searched; `mean_0` .. [K,C_s] float32, the references' mean features; `condition`,
float32, the matrix that the encoder takes; `references` [K,H,W,3] uint8, the preprocessed reference
images, from which the profile can be made anew on a box that has no parts at hand. Facts stand as
JSON under the metadata key `cff_profile`, a signature under `cff_signature` (`cff_runtime.trust`).
"""

import json
import math
from collections.abc import Mapping, Sequence
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
from cff_runtime.origin import Origin
from cff_runtime.references import Reference
from cff_runtime.storage import atomic_write, open_regular
from cff_runtime.thresholds import MAX_THRESHOLD, Threshold
from cff_runtime.trust.policy import keys_for
from cff_runtime.trust.profile_content import profile_content
from cff_runtime.trust.signature import PROFILE_PURPOSE, require_signature

SCHEMA_VERSION = 3
METADATA_KEY = "cff_profile"
SIGNATURE_KEY = "cff_signature"
MAX_BANK_BYTES = 1 << 34
MAX_HEADER_BYTES = 1 << 24  # facts of 65536 references take 13 MB
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Profile:
    """Memory bank, condition, references and threshold of one product.

    Attributes
    ----------
    product : str
        Name of the product.
    bundle_id : str
        Id of the bundle that made the profile; no other bundle accepts it.
    origin : Origin
        What that bundle was, to say what another does otherwise.
    banks : tuple of S ndarrays of shape (M_s, C_s), float32
        Unit rows, the N_s rows of the first reference first unless compressed; empty where the
        bundle has no scorers.
    means : tuple of S ndarrays of shape (K, C_s), float32
        Mean features of the references, see `cff_runtime.product_check`.
    condition : ndarray of two dimensions, float32
        What the encoder takes besides the image: text vectors [C,2], column 0 normal, column 1
        abnormal; or the features [N_s,C_s] of a reference, the template.
    reference_images : ndarray of shape (K, H, W, 3), uint8
        The references as the encoder sees them, RGB.
    references : tuple of K Reference
        Where they came from.
    threshold : Threshold
        The decision rule and how it was set.
    display_range : tuple of float
        Lowest and highest map value of the colour scale, the same for every picture.
    peak_scale : float
        Factor of the map's maximum in the image score; used with a score of the encoder's only.
    condition_name : str
        Class word of `condition`, or the name of the reference that it is of.
    product_limit : float
        An image whose typical distance is above it looks like another product, see
        `cff_runtime.product_check`.
    settings : mapping
        How the threshold is set again when references change, see `cff_runtime.enrolment`.
    compression : mapping or None
        How rows of the memory bank were left out; None where it is complete.
    history : tuple of mapping
        What was done to the profile and when, and the hash of the file that it replaced.
    """

    product: str
    bundle_id: str
    origin: Origin
    banks: tuple[NDArray[np.float32], ...]
    means: tuple[NDArray[np.float32], ...]
    condition: NDArray[np.float32]
    reference_images: NDArray[np.uint8]
    references: tuple[Reference, ...]
    threshold: Threshold
    display_range: tuple[float, float]
    peak_scale: float
    condition_name: str
    product_limit: float
    settings: Mapping[str, float | None]
    compression: Mapping[str, Any] | None
    history: tuple[Mapping[str, Any], ...]

    @property
    def n_references(self) -> int:
        """K."""
        return len(self.references)

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
            "origin": self.origin.to_dict(),
            "references": [asdict(reference) for reference in self.references],
            "threshold": asdict(self.threshold),
            "display_range": list(self.display_range),
            "peak_scale": self.peak_scale,
            "condition_name": self.condition_name,
            "product_limit": self.product_limit,
            "settings": dict(self.settings),
            "compression": None if self.compression is None else dict(self.compression),
            "history": list(self.history),
        }
        tensors: dict[str, NDArray[Any]] = {f"bank_{s}": bank for s, bank in enumerate(self.banks)}
        tensors |= {f"mean_{s}": mean for s, mean in enumerate(self.means)}
        tensors["condition"] = self.condition
        tensors["references"] = self.reference_images
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        atomic_write(Path(path), save(contiguous, metadata={METADATA_KEY: json.dumps(facts)}))

    @classmethod
    def load(cls, path: Path | str, trusted: Sequence[Path | str] | None = None) -> "Profile":
        """Read a profile and check its signature, fields, types, shapes and values.

        Parameters
        ----------
        path : path
        trusted : sequence of paths, optional
            Files of public keys, of which one must have signed the profile; those of
            ``CFF_TRUSTED_KEY`` if None, and no signature is asked for where there are none.

        Raises
        ------
        UsageError
            If there is no such file, or a trusted key cannot be read.
        ProfileError
            If the file is truncated, damaged or not a profile, or not signed as it must be.
        """
        path = Path(path)
        keys = keys_for(trusted)
        facts, tensors, signature = read_profile_file(path)
        if keys:  # of what is in memory now, and before the facts are read
            content = profile_content(facts, tensors)
            what = f"profile `{path}`"
            require_signature(signature, PROFILE_PURPOSE, content, keys, what, ProfileError)
        return parse_profile(path, facts, tensors)

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
        widths = [stage.width for stage in manifest.stages]
        searched = widths[: len(manifest.scorers)]
        got = [bank.shape[1] for bank in self.banks]
        if got != searched or [mean.shape[1] for mean in self.means] != widths:
            raise ProfileMismatchError(
                f"memory banks of `{self.product}` must have widths {searched}, got {got}; "
                "enrol the product again"
            )
        if self.condition.shape != manifest.condition.shape:
            raise ProfileMismatchError(
                f"the condition of `{self.product}` must have shape {manifest.condition.shape}, "
                f"got {self.condition.shape}; enrol the product again"
            )

    def _mismatch(self, manifest: Manifest) -> ProfileMismatchError:
        differences = self.origin.differences(manifest) or ["another scorer or another schema"]
        return ProfileMismatchError(
            f"profile of `{self.product}` belongs to bundle {self.bundle_id[:12]}, "
            f"this is bundle {manifest.id[:12]}: {'; '.join(differences)}; "
            "enrol the product again with this bundle"
        )


def read_profile_file(path: Path) -> tuple[str, dict[str, NDArray[Any]], str | None]:
    """Read a profile's file without a look at its facts.

    Returns
    -------
    facts : str
        JSON text.
    tensors : dict of str to ndarray
        In memory: what becomes of the file later does not touch them.
    signature : str or None
        JSON text.

    Raises
    ------
    UsageError
        If there is no such file.
    ProfileError
        If it is no complete safetensors file of a profile, or tensors have wrong types or sizes.
    """
    if not path.is_file():
        raise UsageError(
            f"profile `{path}` must be an existing file; make one with `cff-run enroll`"
        )
    try:
        _check_header(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if METADATA_KEY not in metadata:
                raise ProfileError("must be a profile, this safetensors file is none")
            names = list(file.keys())
            _check_types({name: file.get_slice(name) for name in names}, metadata[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in names}
    except ProfileError as error:
        raise _named(path, error) from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        cause = ProfileError(f"must be a complete safetensors file: {error}")
        raise _named(path, cause) from error
    return metadata[METADATA_KEY], tensors, metadata.get(SIGNATURE_KEY)


def parse_profile(path: Path, facts: str, tensors: Mapping[str, NDArray[Any]]) -> Profile:
    """Make a profile of what `read_profile_file` read, and check fields, shapes and values.

    Raises
    ------
    ProfileError
        If anything is missing, of a wrong type or out of range.
    """
    try:
        return _parse(_parse_facts(facts), dict(tensors))
    except ProfileError as error:
        raise _named(path, error) from error


def _named(path: Path, error: ProfileError) -> ProfileError:
    return ProfileError(f"`{path}`: {error}; copy it again or enrol again")


def _check_header(path: Path) -> None:
    """Refuse a header that is too long to be read; the library's own limit is 100 MB."""
    with open_regular(path) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
    if n_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"its header must have at most {MAX_HEADER_BYTES} bytes, got {n_bytes}")


def _parse_facts(text: str) -> dict[str, Any]:
    facts = parse_object(text, "metadata", ProfileError)
    _require_schema(facts)
    return facts


def _require_schema(facts: Mapping[str, Any]) -> None:
    version = take(facts, "schema_version", int, ProfileError)
    if version != SCHEMA_VERSION:
        older = ", it was made by an earlier version"
        raise ProfileError(
            f"`schema_version` must be {SCHEMA_VERSION}, got {version}"
            f"{older if version < SCHEMA_VERSION else ''}"
        )


def _check_types(slices: Mapping[str, Any], facts: str) -> None:
    """Refuse, before anything is read, what has a wrong type or takes too much memory."""
    n_bytes = 0
    for name, tensor in slices.items():
        dtype, shape = tensor.get_dtype(), tensor.get_shape()
        if name == "references":
            if dtype != "U8" or len(shape) != 4 or shape[3] != 3:
                _parse_facts(facts)  # of another schema, that is what there is to say
                raise ProfileError(f"`{name}` must be uint8 [K,H,W,3], got {dtype} {shape}")
        elif dtype != "F32" or len(shape) != 2:
            _parse_facts(facts)
            raise ProfileError(f"`{name}` must be a float32 matrix, got {dtype} {shape}")
        n_bytes += math.prod(shape) * (1 if dtype == "U8" else 4)
    if n_bytes > MAX_BANK_BYTES:
        raise ProfileError(f"tensors must take at most {MAX_BANK_BYTES} bytes, got {n_bytes}")


def _parse(facts: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Profile:
    condition, images = tensors.pop("condition", None), tensors.pop("references", None)
    n_stages = sum(name.startswith("mean_") for name in tensors)
    n_banks = 0 if len(tensors) == n_stages else n_stages
    names = {f"mean_{stage}" for stage in range(n_stages)}
    names |= {f"bank_{stage}" for stage in range(n_banks)}
    complete = condition is not None and images is not None
    if not complete or not 1 <= n_stages <= MAX_STAGES or names != set(tensors):
        raise ProfileError(
            "tensors must be `condition`, `references`, `mean_0` to `mean_{S-1}`, and `bank_0` to "
            "`bank_{S-1}` or no bank"
        )
    if condition is None or not condition.size or not np.isfinite(condition).all():
        raise ProfileError("`condition` must be finite")
    origin = Origin.from_dict(take(facts, "origin", dict, ProfileError))
    references = take(facts, "references", list, ProfileError)
    expected = (len(references), *origin.size, 3)
    if images is None or not references or images.shape != expected:
        raise ProfileError(
            f"tensor `references` must hold an image of every entry of `references`, {expected}, "
            f"got {None if images is None else images.shape}"
        )
    if any(len(tensors[f"mean_{stage}"]) != len(references) for stage in range(n_stages)):
        raise ProfileError(f"`mean_s` must have a row of each of {len(references)} references")
    display = take_floats(facts, "display_range", ProfileError)
    if len(display) != 2 or not display[0] < display[1]:
        raise ProfileError(f"`display_range` must be two rising numbers, got {display!r:.80}")
    return Profile(
        product=take(facts, "product", str, ProfileError),
        bundle_id=take(facts, "bundle_id", str, ProfileError),
        origin=origin,
        banks=tuple(_unit_rows(tensors, f"bank_{stage}") for stage in range(n_banks)),
        means=tuple(_unit_rows(tensors, f"mean_{stage}") for stage in range(n_stages)),
        condition=condition,
        reference_images=images,
        references=tuple(Reference.from_dict(entry) for entry in references),
        threshold=_parse_threshold(take(facts, "threshold", dict, ProfileError)),
        display_range=(display[0], display[1]),
        peak_scale=take(facts, "peak_scale", float, ProfileError),
        condition_name=take(facts, "condition_name", str, ProfileError),
        product_limit=take(facts, "product_limit", float, ProfileError),
        settings=_parse_settings(take(facts, "settings", dict, ProfileError)),
        compression=_parse_compression(facts),
        history=_parse_history(take(facts, "history", list, ProfileError)),
    )


def _parse_threshold(fields: Mapping[str, Any]) -> Threshold:
    """Read the decision rule; above a limit that no score reaches it would pass every part."""
    threshold = Threshold.from_dict(fields)
    for name in ("value", "review", "pixel_value"):
        if not abs(getattr(threshold, name)) <= MAX_THRESHOLD:
            raise ProfileError(
                f"`{name}` of the threshold must be at most {MAX_THRESHOLD:.0f}, which no score "
                f"reaches, got {getattr(threshold, name):g}"
            )
    return threshold


def _unit_rows(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    rows = tensors[name]
    norms = np.linalg.norm(rows, axis=1)
    if not norms.size or not np.abs(norms - 1.0).max() <= _UNIT_TOLERANCE:  # NaN fails too
        raise ProfileError(f"rows of `{name}` must have unit length")
    return rows


def _parse_settings(fields: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        name: None if value is None else take(fields, name, float, ProfileError)
        for name, value in fields.items()
    }


def _parse_compression(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if facts.get("compression", "") is None:
        return None
    return take(facts, "compression", dict, ProfileError)


def _parse_history(entries: list[Any]) -> tuple[Mapping[str, Any], ...]:
    if not all(isinstance(entry, dict) for entry in entries):
        raise ProfileError(f"every entry of `history` must be an object, got {entries!r:.80}")
    return tuple(entries)
