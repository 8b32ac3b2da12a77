"""One ONNX file from the image to the answer, for hosts that take only one graph.

in   image [B,H,W,3] uint8 RGB, resized as the bundle's preprocessing says
     with ``inputs`` also bank_s [M_s,C_s] where there are memory banks, the condition under its
     own name (text [C,2], template [T,D]), threshold [1] and, where the encoder gives a score,
     peak_scale [1], all float32
out  anomaly_map [B,H,W] float32, score [B] float32, reject [B] bool, and the encoder's score
     [B] float32 under its own name where it gives one

Nodes and guarantees: `cff_export.hosts.scoring_graph`. Facts stand in the file's metadata under
keys that begin with ``cff_``.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
from safetensors.numpy import save

from cff_export.hosts.external_data import save_model
from cff_export.hosts.scoring_graph import append_scoring, profile_tensors
from cff_export.hosts.staging import publish, require_outside, staged_folder
from cff_runtime.bundle import Bundle
from cff_runtime.errors import BundleError, UsageError
from cff_runtime.manifest import Manifest
from cff_runtime.preprocessing import Preprocessing
from cff_runtime.profile import Profile
from cff_runtime.storage import sha256_file

METADATA_KEY = "cff_standalone"  # of the inputs' file


@dataclass(frozen=True)
class StandaloneReport:
    """What was written.

    Attributes
    ----------
    path : Path
        The ONNX file.
    data : Path or None
        Its weights, where they are too large for one file; must stay beside it.
    inputs : Path or None
        safetensors file of the product's inputs, by their names.
    batch : int or None
        Batch size that the graph takes; None where it is free.
    n_bytes : int
        Of all these files.
    """

    path: Path
    data: Path | None
    inputs: Path | None
    batch: int | None
    n_bytes: int


def write_standalone(
    bundle: Bundle, profile: Profile, out: Path, inputs: bool = False
) -> StandaloneReport:
    """Write a bundle's encoder, a profile and the scoring as one ONNX file.

    Parameters
    ----------
    bundle : Bundle
    profile : Profile
        Of this bundle.
    out : Path
        File to write; one that stands there is replaced.
    inputs : bool
        Leave memory bank, condition, threshold and peak scale as inputs of the graph, so that
        another product of as many references can be fed; they are written beside it, to
        ``<out>.inputs.safetensors``.

    Raises
    ------
    ProfileMismatchError
        If the profile belongs to another bundle.
    UsageError
        If `out` is no ``.onnx`` file or lies inside the bundle.
    BundleError
        If the encoder is not one of a bundle.
    StorageError
        If a file cannot be written.
    """
    out = Path(out)
    profile.require_bundle(bundle.manifest)
    require_outside(out, bundle.path)
    if out.is_dir() or out.suffix != ".onnx":
        raise UsageError(f"`{out}` must be a file to write, ending in `.onnx`; name one")
    model = load_encoder(bundle)
    batch = batch_of(model)
    tensors = profile_tensors(bundle.manifest, profile)
    append_scoring(model, bundle.manifest, tensors, inputs)
    _set_metadata(model, bundle.manifest, profile)
    constants: Path | None = None
    with staged_folder(out) as work:
        data = save_model(model, work / out.name)
        if inputs:
            constants = work / f"{out.name}.inputs.safetensors"
            facts = json.dumps(product_facts(bundle.manifest, profile))
            constants.write_bytes(save(tensors, metadata={METADATA_KEY: facts}))
        # the graph last: whoever waits for it finds the rest
        beside = [
            None if file is None else publish(file, out.with_name(file.name))
            for file in (data, constants)
        ]
        publish(work / out.name, out)
    files = [out, *(file for file in beside if file is not None)]
    return StandaloneReport(
        path=out,
        data=beside[0],
        inputs=beside[1],
        batch=batch,
        n_bytes=sum(file.stat().st_size for file in files),
    )


def load_encoder(bundle: Bundle) -> ir.Model:
    """Read a bundle's encoder; weights that stand beside it stay there until they are needed.

    Raises
    ------
    BundleError
        If it is no ONNX file.
    """
    path = bundle.file(bundle.manifest.encoder)
    try:
        return ir.load(path)
    except Exception as error:  # protobuf raises a kind of its own
        raise BundleError(f"`{path}` must be an ONNX file: {error}") from error


def batch_of(model: ir.Model) -> int | None:
    """Return the batch size that an encoder is fixed to; None where it is free."""
    image = next((value for value in model.graph.inputs if value.name == "image"), None)
    if image is None or image.shape is None:
        raise BundleError("the encoder must have an input `image`; export the bundle again")
    return image.shape[0] if isinstance(image.shape[0], int) else None


def product_facts(manifest: Manifest, profile: Profile) -> dict[str, str]:
    """Return what a host should know about the file it serves, as strings by key."""
    return {
        "cff_product": profile.product,
        "cff_bundle_id": manifest.id,
        "cff_precision": manifest.precision,
        "cff_profile_sha256": profile_sha256(profile),
        "cff_threshold": repr(profile.threshold.value),
        "cff_threshold_statement": profile.threshold.statement,
        "cff_n_references": str(profile.n_references),
        "cff_preprocessing": preprocessing_in_words(manifest.preprocessing),
        "cff_licences": json.dumps(dict(manifest.licences)),
        "cff_notes": json.dumps(list(manifest.notes)),
    }


def preprocessing_in_words(preprocessing: Preprocessing) -> str:
    """Return what the host owes the graph."""
    return (
        f"resize to exactly {preprocessing.height} x {preprocessing.width} (height x width), "
        "aspect ratio not kept, by Pillow's bicubic with antialiasing (a = -0.5, horizontal pass "
        "first, each pass rounded to 8 bits); RGB, uint8, height x width x channel; "
        "no normalisation, it is in the graph"
    )


def profile_sha256(profile: Profile) -> str:
    """Return the SHA-256 of the file that `Profile.save` writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "profile.safetensors"
        profile.save(path)
        return sha256_file(path)


def _set_metadata(model: ir.Model, manifest: Manifest, profile: Profile) -> None:
    model.metadata_props.clear()  # of the encoder alone
    model.metadata_props.update(product_facts(manifest, profile))
