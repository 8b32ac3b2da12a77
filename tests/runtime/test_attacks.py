"""Every attack that docs/security.md lists: what is done, and the sentence that stops it.

The page's table is made from the rows here (`table`); the last test compares them, so that neither
can promise what the other does not do.
"""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cff_runtime import Bundle, Inspector, Profile
from cff_runtime.errors import (
    BackendError,
    BundleError,
    CffError,
    ImageError,
    ProfileError,
    ProfileMismatchError,
    UsageError,
)
from cff_runtime.imaging import load_image

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"
_ENTRY = {"sha256": "0" * 64, "n_bytes": 1}


@dataclass
class Scene:
    """What an attacker has before him: copies of a good bundle, a profile and an image."""

    bundle: Path
    profile: Path
    image: Path
    edit_manifest: Callable[..., None]
    keys: Any = None  # `box` is trusted, `other` is the attacker's; public PEM files and signers
    trusted: list[Path] = field(default_factory=list)

    def file(self, name: str) -> Path:
        """Return a file of the bundle that may be written, no link to the original."""
        path = self.bundle / name
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        return path

    def manifest(self, edit: Callable[[dict[str, Any]], Any], rehash: bool = False) -> None:
        self.edit_manifest(self.bundle, edit, rehash)

    def facts(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Edit a profile's facts and keep its signature."""
        with safe_open(self.profile, framework="numpy") as file:
            metadata = dict(file.metadata())
        facts = json.loads(metadata["cff_profile"])
        edit(facts)
        save_file(
            load_file(self.profile),
            self.profile,
            metadata={**metadata, "cff_profile": json.dumps(facts)},
        )

    def tensors(self, edit: Callable[[dict[str, NDArray[Any]]], Any]) -> None:
        """Edit a profile's tensors and keep its signature."""
        with safe_open(self.profile, framework="numpy") as file:
            metadata = dict(file.metadata())
        tensors = {name: tensor.copy() for name, tensor in load_file(self.profile).items()}
        edit(tensors)
        save_file(tensors, self.profile, metadata=metadata)


@dataclass(frozen=True)
class Attack:
    """A row: what is attacked, how, and what stops it (None: it does no harm)."""

    target: str
    how: str
    act: Callable[[Scene], Any]
    error: type[CffError] | None
    sentence: str


ATTACKS: list[Attack] = []


def attack(
    target: str, how: str, error: type[CffError] | None, sentence: str
) -> Callable[[Callable[[Scene], Any]], Callable[[Scene], Any]]:
    def add(act: Callable[[Scene], Any]) -> Callable[[Scene], Any]:
        ATTACKS.append(Attack(target, how, act, error, sentence))
        return act

    return add


def rows(
    target: str, error: type[CffError], *entries: tuple[str, Callable[[Scene], Any], str]
) -> None:
    for how, act, sentence in entries:
        ATTACKS.append(Attack(target, how, act, error, sentence))


# --- bundles, without a key ---------------------------------------------------------------------


def _flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _swap(scene: Scene) -> None:
    one, other = scene.file("scorer_2.fp32.onnx"), scene.file("scorer_3.fp32.onnx")
    (scene.bundle / "x").write_bytes(one.read_bytes())
    one.write_bytes(other.read_bytes())
    (scene.bundle / "x").replace(other)


def _link(scene: Scene, name: str, target: Path | str) -> None:
    place = scene.bundle / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(target)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _add_file(scene: Scene, *names: str) -> None:
    scene.manifest(lambda fields: fields["files"].update(dict.fromkeys(names, _ENTRY)))


def _manifest_text(scene: Scene, text: Callable[[str], str]) -> None:
    path = scene.bundle / "manifest.json"
    path.write_text(text(path.read_text()))


def _twice(text: str) -> str:
    """Name another encoder first: a reader that takes the first and one that takes the last."""
    return text.replace("{", '{"encoder": "evil.onnx", ', 1)


rows(
    "bundle",
    BundleError,
    (
        "a byte of a graph is changed",
        lambda s: _flip(s.file("encoder.fp32.onnx")),
        "must have the SHA-256 of the manifest",
    ),
    (
        "a file is cut short",
        lambda s: os.truncate(s.file("text.safetensors"), 100),
        "bytes, got 100",
    ),
    (
        "bytes are appended",
        lambda s: _append(s.file("parity.json")),
        "the file was changed or not copied completely",
    ),
    ("two graphs change places", _swap, "copy the bundle again"),
    (
        "a file is gone",
        lambda s: (s.bundle / "parity.json").unlink(),
        "must exist, the manifest names it",
    ),
    (
        "a file is a link out of the folder",
        lambda s: _link(s, "text.safetensors", "/etc/hostname"),
        "must lie inside the bundle",
    ),
    (
        "a folder is a link out of the folder",
        lambda s: _link(s, "golden", "/etc"),
        "must lie inside the bundle",
    ),
    (
        "a file is a link to `/dev/zero`",
        lambda s: _link(s, "text.safetensors", "/dev/zero"),
        "must lie inside the bundle",
    ),
    (
        "a file is a pipe that nobody writes",
        lambda s: _pipe(s.bundle / "parity.json"),
        "must exist, the manifest names it",
    ),
    (
        "the manifest names `../secret`",
        lambda s: _add_file(s, "../secret"),
        "must name files inside the bundle",
    ),
    (
        "the manifest names `/etc/passwd`",
        lambda s: _add_file(s, "/etc/passwd"),
        "must name files inside the bundle",
    ),
    (
        "the manifest names `C:evil` or `a\\b`",
        lambda s: _add_file(s, "C:evil"),
        "must name files inside the bundle",
    ),
    (
        "the manifest names a file twice, as `golden/./x`",
        lambda s: _add_file(s, "golden/./x"),
        "must name files inside the bundle",
    ),
    (
        "two names differ by case alone",
        lambda s: _add_file(s, "PARITY.json"),
        "must differ in more than upper and lower case",
    ),
    (
        "a manifest of 5,000 files",
        lambda s: _add_file(s, *map(str, range(5000))),
        "must name at most 4096 files",
    ),
    (
        "a manifest of a million entries",
        lambda s: _manifest_text(
            s, lambda t: "{" + ",".join(f'"{i}":0' for i in range(10**6)) + "}"
        ),
        "must be at most 4194304 bytes",
    ),
    (
        "JSON nested 100,000 deep",
        lambda s: _manifest_text(s, lambda t: "[" * 100_000),
        "must be JSON",
    ),
    (
        "a number of 5,000 digits",
        lambda s: _manifest_text(
            s, lambda t: t.replace('"schema_version": 4', f'"schema_version": {"9" * 5000}')
        ),
        "must be JSON",
    ),
    (
        "a size beyond 64 bits",
        lambda s: s.manifest(lambda f: f["files"]["parity.json"].update(n_bytes=10**30)),
        "must be an integer of 64 bits",
    ),
    (
        "a key stands twice in the manifest",
        lambda s: _manifest_text(s, _twice),
        "must stand once in its object",
    ),
    (
        "an older schema, to skip later checks",
        lambda s: s.manifest(lambda f: f.update(schema_version=2)),
        "`schema_version` must be 4, got 2",
    ),
    (
        "the weight of the encoder's map is changed",
        lambda s: s.manifest(lambda f: f["map"].update(weight=9.0)),
        "`id` must be the hash",
    ),
    (
        "a hash is left empty",
        lambda s: s.manifest(lambda f: f["files"]["parity.json"].update(sha256="")),
        "must be 64 hex digits",
    ),
    (
        "NaN as a weight",
        lambda s: s.manifest(lambda f: f["map"].update(weight=float("nan"))),
        "must be a finite number",
    ),
)


@attack(
    "bundle",
    "a safetensors header of 2^62 bytes, hashes made to fit",
    BundleError,
    "must be a safetensors file",
)
def _header_bomb(scene: Scene) -> None:
    scene.file("text.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    scene.edit_manifest(scene.bundle, rehash=True)
    Bundle.open(scene.bundle).condition_of_word("object")


@attack(
    "bundle",
    "a file is replaced after the check, before it is read",
    BundleError,
    "must not change while the bundle is in use",
)
def _replaced_later(scene: Scene) -> None:
    bundle = Bundle.open(scene.bundle)
    _flip(scene.file("text.safetensors"))
    bundle.condition_of_word("object")


def _graph(scene: Scene, location: str = "", domain: str = "", operator: str = "Add") -> None:
    """Put a graph in the encoder's place and make hashes and id fit."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = helper.make_tensor("w", 1, [4], [0.0] * 4)
    if location:
        weights.ClearField("float_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", location
    values = [helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x", "w"], ["y"], domain=domain)
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weights])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain or "ai.onnx.ml", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    (scene.bundle / "encoder.fp32.onnx").unlink()
    (scene.bundle / "encoder.fp32.onnx").write_bytes(model.SerializeToString())
    scene.edit_manifest(scene.bundle, rehash=True)


def _unnamed_weights(scene: Scene) -> None:
    (scene.bundle / "weights.bin").write_bytes(bytes(16))
    _graph(scene, "weights.bin")


rows(
    "bundle",
    BundleError,
    (
        "a graph takes its weights from `../../etc/passwd`, hashes made to fit",
        lambda s: _graph(s, "../../etc/passwd"),
        "must take weights from files of the manifest only",
    ),
    (
        "a graph takes its weights from `/etc/passwd`",
        lambda s: _graph(s, "/etc/passwd"),
        "must take weights from files of the manifest only",
    ),
    (
        "a graph takes its weights from a file without a hash",
        _unnamed_weights,
        "must take weights from files of the manifest only",
    ),
    (
        "a graph has an operator of another domain",
        lambda s: _graph(s, domain="evil.ops", operator="Run"),
        "must have operators of ONNX and ONNX Runtime only",
    ),
    (
        "a graph holds a compiled engine",
        lambda s: _graph(s, domain="com.microsoft", operator="EPContext"),
        "must hold no compiled engine",
    ),
)


@attack("bundle", "a graph that is none, hashes made to fit", BackendError, "cannot load")
def _no_graph(scene: Scene) -> None:
    scene.file("scorer_1.fp32.onnx").write_bytes(b"\x0a\xff" * 500)
    scene.edit_manifest(scene.bundle, rehash=True)
    Inspector.open(scene.bundle)


# --- bundles, with a trusted key ----------------------------------------------------------------


def _sign(scene: Scene, signer: str = "box", purpose: bytes | None = None) -> dict[str, Any]:
    text: str = scene.keys.sign(signer, (scene.bundle / "manifest.json").read_bytes(), purpose)
    (scene.bundle / "manifest.sig").write_text(text)
    fields: dict[str, Any] = json.loads(text)
    return fields


def _resign(scene: Scene, **changes: Any) -> None:
    fields = {**_sign(scene), **changes}
    (scene.bundle / "manifest.sig").write_text(json.dumps(fields))


def _forge(scene: Scene) -> None:
    """Change a file and make every hash fit: all but the signature."""
    _flip(scene.file("parity.json"))
    scene.edit_manifest(scene.bundle, rehash=True)


def _other_manifest(scene: Scene) -> None:
    """Take the signature of another bundle of the same key."""
    text = scene.keys.sign("box", b'{"another": "manifest"}', None)
    (scene.bundle / "manifest.sig").write_text(text)


def _name_of_the_box(scene: Scene) -> None:
    fields = {**_sign(scene, "other"), "key_id": scene.keys.box_id}
    (scene.bundle / "manifest.sig").write_text(json.dumps(fields))


def _signature_link(scene: Scene) -> None:
    (scene.bundle / "manifest.sig").unlink()
    (scene.bundle / "manifest.sig").symlink_to("/dev/zero")


def _signature_text(text: str) -> Callable[[Scene], Any]:
    return lambda scene: (scene.bundle / "manifest.sig").write_text(text)


rows(
    "signed bundle",
    BundleError,
    (
        "the signature is taken away",
        lambda s: (s.bundle / "manifest.sig").unlink(),
        "must be signed by a trusted key",
    ),
    ("a file is changed and every hash made to fit", _forge, "it was changed since key"),
    (
        "a note for people is changed, which no hash covers",
        lambda s: s.manifest(lambda f: f.update(notes=["fine"])),
        "it was changed since key",
    ),
    (
        "a byte of a graph is changed, the signature left",
        lambda s: _flip(s.file("encoder.fp32.onnx")),
        "must have the SHA-256 of the manifest",
    ),
    ("the attacker signs with a key of his own", lambda s: _sign(s, "other"), "it is signed by"),
    (
        "the attacker signs and gives the trusted key's name",
        _name_of_the_box,
        "it was changed since key",
    ),
    (
        "the signature of another bundle of the same key",
        _other_manifest,
        "the signature is that of another file",
    ),
    (
        "a signature made for another purpose",
        lambda s: _sign(s, purpose=b"cff-edge profile signature v1\0"),
        "the signature is that of another file",
    ),
    (
        "the signature is cut short",
        lambda s: _resign(s, signature="00" * 32),
        "must have 64 bytes as hex digits",
    ),
    (
        "the signature is all zeros",
        lambda s: _resign(s, signature="00" * 64),
        "it was changed since key",
    ),
    (
        "the algorithm is `none`",
        lambda s: _resign(s, algorithm="none"),
        "must be of version 1 and ed25519",
    ),
    (
        "an older schema of signatures",
        lambda s: _resign(s, schema_version=0),
        "must be of version 1 and ed25519",
    ),
    ("a signature of 5,000 bytes", _signature_text(" " * 5000), "it must have at most 4096 bytes"),
    ("a signature that is no JSON", _signature_text("signed"), "must be JSON"),
    (
        "a key stands twice in the signature",
        _signature_text('{"key_id": "a", "key_id": "b"}'),
        "must stand once in its object",
    ),
    ("the signature is a link to `/dev/zero`", _signature_link, "must be a readable signature"),
)


def _trust(make: Callable[[Scene], Path]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.trusted = [make(scene)]

    return act


def _trust_nothing(scene: Scene) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFF_TRUSTED_KEY", "")
        Bundle.open(scene.bundle)


rows(
    "signed bundle",
    UsageError,
    (
        "`CFF_TRUSTED_KEY` is set and empty",
        _trust_nothing,
        "must name files of public keys, it is empty",
    ),
    ("the trusted key is gone", _trust(lambda s: s.bundle / "none.pem"), "must be a readable file"),
    ("the trusted key is a private one", _trust(lambda s: s.keys.private), "must be a public key"),
    (
        "the trusted key is of another kind",
        _trust(lambda s: s.keys.x25519),
        "must be one of Ed25519",
    ),
)


# --- profiles -----------------------------------------------------------------------------------


def _raw_profile(scene: Scene, n_rows: int, n_bytes: int) -> None:
    """Write a profile whose bank is a hole in the file; it takes no space."""
    entry = {"dtype": "F32", "shape": [n_rows, 2], "data_offsets": [0, 8 * n_rows]}
    metadata = {"cff_profile": '{"schema_version": 3}'}
    header = json.dumps({"__metadata__": metadata, "bank_0": entry}).encode()
    scene.profile.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(scene.profile, 8 + len(header) + n_bytes)


def _put(name: str, value: float) -> Callable[[Scene], None]:
    return lambda scene: scene.tensors(lambda tensors: tensors[name].__setitem__((1, 1), value))


def _threshold(**values: float) -> Callable[[Scene], None]:
    return lambda scene: scene.facts(lambda facts: facts["threshold"].update(values))


def _metadata(scene: Scene, text: str) -> None:
    save_file(load_file(scene.profile), scene.profile, metadata={"cff_profile": text})


rows(
    "profile",
    ProfileError,
    (
        "the file is cut short",
        lambda s: os.truncate(s.profile, 100_000),
        "must be a complete safetensors file",
    ),
    ("bytes are appended", lambda s: _append(s.profile), "must be a complete safetensors file"),
    (
        "a header of 2^62 bytes",
        lambda s: s.profile.write_bytes(struct.pack("<Q", 1 << 62) + b"{}"),
        "its header must have at most 16777216 bytes",
    ),
    (
        "a header of 99 MB",
        lambda s: s.profile.write_bytes(struct.pack("<Q", 99_000_000) + bytes(10**6)),
        "its header must have at most 16777216 bytes",
    ),
    (
        "a bank of 8 EB that the file has not",
        lambda s: _raw_profile(s, 1 << 60, 0),
        "must be a complete safetensors file",
    ),
    (
        "a bank of 17 GB that the file has, as a hole",
        lambda s: _raw_profile(s, (1 << 31) + 1, 8 * ((1 << 31) + 1)),
        "tensors must take at most 17179869184 bytes",
    ),
    ("metadata nested 100,000 deep", lambda s: _metadata(s, "[" * 100_000), "must be JSON"),
    (
        "a key stands twice in the facts",
        lambda s: _metadata(s, '{"schema_version": 1, "schema_version": 2}'),
        "must stand once in its object",
    ),
    (
        "an older schema",
        lambda s: s.facts(lambda f: f.update(schema_version=1)),
        "`schema_version` must be 3, got 1",
    ),
    (
        "the threshold is NaN, above which is nothing",
        _threshold(value=float("nan")),
        "`value` must be a finite number",
    ),
    (
        "the threshold is 1e300, above which is nothing",
        _threshold(value=1e300, review=1e300),
        "which no score reaches",
    ),
    (
        "the review threshold is above the other",
        _threshold(review=1e5),
        "`review` must be at most the threshold",
    ),
    ("NaN in the memory bank", _put("bank_1", np.nan), "rows of `bank_1` must have unit length"),
    (
        "infinity in the mean features",
        _put("mean_0", np.inf),
        "rows of `mean_0` must have unit length",
    ),
    ("NaN in the condition", _put("condition", np.nan), "`condition` must be finite"),
    (
        "a bank of zeros, far from everything",
        lambda s: s.tensors(lambda t: t["bank_0"].fill(0)),
        "rows of `bank_0` must have unit length",
    ),
)
rows(
    "profile",
    UsageError,
    ("the profile is a pipe", lambda s: _pipe(s.profile), "must be an existing file"),
)


@attack(
    "profile", "the profile of another bundle, renamed", ProfileMismatchError, "belongs to bundle"
)
def _renamed(scene: Scene) -> None:
    scene.facts(lambda facts: facts.update(bundle_id="f" * 64))
    Profile.load(scene.profile).precision_in(Bundle.open(scene.bundle).manifest)


def _sign_profile(scene: Scene, signer: str = "box") -> None:
    scene.keys.sign_profile(scene.profile, signer)


def _other_profile(scene: Scene) -> None:
    """Take the signature of another profile of the same key."""
    other = scene.profile.with_name("other")
    shutil.copy(scene.profile, other)
    scene.facts(lambda facts: facts.update(product="other"))
    scene.keys.sign_profile(scene.profile, "box")
    with safe_open(scene.profile, framework="numpy") as file:
        signature = file.metadata()["cff_signature"]
    with safe_open(other, framework="numpy") as file:
        metadata = {**file.metadata(), "cff_signature": signature}
    save_file(load_file(other), scene.profile, metadata=metadata)


def _swap_banks(tensors: dict[str, NDArray[Any]]) -> None:
    tensors["bank_2"], tensors["bank_3"] = tensors["bank_3"], tensors["bank_2"]


def _bundle_signature(scene: Scene) -> None:
    content = scene.keys.content(scene.profile)
    purpose = b"cff-edge bundle manifest signature v1\0"
    with safe_open(scene.profile, framework="numpy") as file:
        metadata = {**file.metadata(), "cff_signature": scene.keys.sign("box", content, purpose)}
    save_file(load_file(scene.profile), scene.profile, metadata=metadata)


def _unsign(scene: Scene) -> None:
    Profile.load(scene.profile).save(scene.profile)


rows(
    "signed profile",
    ProfileError,
    ("a profile without a signature", _unsign, "must be signed by a trusted key"),
    (
        "the threshold is moved after the signature",
        _threshold(value=5.0, review=5.0),
        "it was changed since key",
    ),
    ("one value of the memory bank is changed", _put("bank_0", 0.0), "it was changed since key"),
    (
        "one pixel of a reference is changed",
        lambda s: s.tensors(lambda t: t["references"].__setitem__((0, 0, 0, 0), 9)),
        "it was changed since key",
    ),
    (
        "two memory banks change places",
        lambda s: s.tensors(_swap_banks),
        "it was changed since key",
    ),
    (
        "the attacker signs with a key of his own",
        lambda s: _sign_profile(s, "other"),
        "it is signed by",
    ),
    (
        "the signature of another profile of the same key",
        _other_profile,
        "the signature is that of another file",
    ),
    ("a bundle's signature", _bundle_signature, "the signature is that of another file"),
)


# --- images -------------------------------------------------------------------------------------


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + checksum


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A whole PNG of zeros, compressed row by row; `chunks` stand before the pixels."""
    n_bits = width * depth * {0: 1, 2: 3}[colour]
    row, packer = bytes(1 + (n_bits + 7) // 8), zlib.compressobj(1)
    packed = b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = _chunk(b"IHDR", header) + b"".join(chunks) + _chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")


def _claim(width: int, height: int) -> bytes:
    """A PNG that says it has a size, and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(_saved(Image.new("RGB", (64, 64)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _tiff_in_a_circle() -> bytes:
    """A TIFF whose last directory names itself as the next one."""
    data = bytearray(_saved(Image.new("RGB", (64, 64)), "TIFF"))
    at = struct.unpack_from("<I", data, 4)[0]
    n_entries = struct.unpack_from("<H", data, at)[0]
    struct.pack_into("<I", data, at + 2 + 12 * n_entries, at)
    return bytes(data)


def _frames(n: int) -> bytes:
    small = [Image.new("L", (16, 16), index % 256) for index in range(n)]
    return _saved(small[0], "TIFF", save_all=True, append_images=small[1:])


_BOMB = zlib.compress(bytes(200 << 20), 9)


def _image(data: Callable[[], bytes]) -> Callable[[Scene], Any]:
    return lambda scene: scene.image.write_bytes(data())


rows(
    "image",
    ImageError,
    (
        "a PNG of 121 Mpx in 66 KB",
        _image(lambda: _png(11_000, 11_000, depth=1, colour=0)),
        "must have at most 100000000 pixels",
    ),
    (
        "a PNG that claims 40,000 Mpx",
        _image(lambda: _claim(200_000, 200_000)),
        "must be a readable PNG, JPEG, BMP or TIFF image",
    ),
    (
        "a JPEG that claims 144 Mpx",
        _image(lambda: _jpeg(12_000, 12_000)),
        "must have at most 100000000 pixels",
    ),
    (
        "a TIFF of 121 Mpx, compressed",
        _image(lambda: _saved(Image.new("1", (11_000, 11_000)), "TIFF", compression="group4")),
        "must have at most 100000000 pixels",
    ),
    (
        "a BMP that claims 144 Mpx",
        _image(
            lambda: _saved(Image.new("L", (16, 16)), "BMP").replace(
                struct.pack("<ii", 16, 16), struct.pack("<ii", 12_000, 12_000), 1
            )
        ),
        "must have at most 100000000 pixels",
    ),
    (
        "a PNG whose text chunk (zTXt) is 200 MB",
        _image(lambda: _png(32, 32, _chunk(b"zTXt", b"a\0\0" + _BOMB))),
        "must be a readable PNG",
    ),
    (
        "a PNG whose text chunk (iTXt) is 200 MB",
        _image(lambda: _png(32, 32, _chunk(b"iTXt", b"a\0\1\0\0\0" + _BOMB))),
        "must be a readable PNG",
    ),
    (
        "a PNG whose colour profile (iCCP) is 200 MB",
        _image(lambda: _png(32, 32, _chunk(b"iCCP", b"a\0\0" + _BOMB))),
        "must be a readable PNG",
    ),
    ("a PNG that is cut short", _image(lambda: _png(64, 64)[:-40]), "must be a readable PNG"),
    (
        "a GIF named `.png`",
        _image(lambda: _saved(Image.new("L", (32, 32)), "GIF")),
        "must be a readable PNG",
    ),
    (
        "a file of 2 GB, as a hole",
        lambda s: os.truncate(s.image, 2 << 30),
        "must have at most 1073741824 bytes",
    ),
)
rows(
    "image",
    UsageError,
    ("the image is a pipe", lambda s: _pipe(s.image), "must be an existing file"),
)
ATTACKS += [
    Attack(
        "image",
        "a TIFF of 500 frames",
        _image(lambda: _frames(500)),
        None,
        "(only the first is read)",
    ),
    Attack(
        "image",
        "a TIFF whose directories form a circle",
        _image(_tiff_in_a_circle),
        None,
        "(only the first is read)",
    ),
    Attack(
        "image",
        "EXIF data that point outside the file",
        _image(
            lambda: _saved(Image.new("RGB", (32, 32)), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
        ),
        None,
        "(EXIF data are not read)",
    ),
]


# --- the tests ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two key pairs as PEM files, and what signs with them."""
    pytest.importorskip("cryptography", reason="cff-edge[sign] is not installed")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

    from cff_runtime.profile import read_profile_file
    from cff_runtime.trust.keys import read_private_key
    from cff_runtime.trust.profile_content import profile_content
    from cff_runtime.trust.profile_signing import sign_profile
    from cff_runtime.trust.signature import BUNDLE_PURPOSE, make_signature

    folder = tmp_path_factory.mktemp("keys")
    signers = {}
    for name in ("box", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        path = folder / f"{name}.key"
        plain = s.NoEncryption()
        path.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, plain))
        path.chmod(0o600)
        public = key.public_key()
        pem = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(pem)
        signers[name] = read_private_key(path)
    foreign = x25519.X25519PrivateKey.generate().public_key()
    pem = foreign.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    (folder / "x25519.pem").write_bytes(pem)

    def sign(signer: str, content: bytes, purpose: bytes | None) -> str:
        return make_signature(signers[signer], purpose or BUNDLE_PURPOSE, content)

    return SimpleNamespace(
        public=folder / "box.pem",
        private=folder / "box.key",
        x25519=folder / "x25519.pem",
        box_id=signers["box"].id,
        sign=sign,
        sign_profile=lambda path, signer: sign_profile(path, signers[signer]),
        content=lambda path: profile_content(*read_profile_file(path)[:2]),
    )


@pytest.fixture
def scene(
    bundle_copy: Path,
    lite_profile: Profile,
    draw_part: Callable[..., NDArray[np.uint8]],
    edit_manifest: Callable[..., None],
    tmp_path: Path,
) -> Scene:
    profile, image = tmp_path / "ring.safetensors", tmp_path / "part.png"
    lite_profile.save(profile)
    Image.fromarray(draw_part(7)).save(image)
    return Scene(bundle_copy, profile, image, edit_manifest)


def _load(scene: Scene, target: str) -> Any:
    if target.endswith("bundle"):
        return Bundle.open(scene.bundle, trusted=scene.trusted)
    if target.endswith("profile"):
        return Profile.load(scene.profile, trusted=scene.trusted)
    return load_image(scene.image)


def _prepare(scene: Scene, target: str, request: pytest.FixtureRequest) -> None:
    if target.startswith("signed"):
        scene.keys = request.getfixturevalue("keys")
        scene.trusted = [scene.keys.public]
        _sign(scene)
        _sign_profile(scene)


@pytest.mark.parametrize(
    "target", ["bundle", "signed bundle", "profile", "signed profile", "image"]
)
def test_without_an_attack_everything_loads(
    target: str, scene: Scene, request: pytest.FixtureRequest
) -> None:
    _prepare(scene, target, request)

    _load(scene, target)


@pytest.mark.filterwarnings("ignore::Warning:PIL")
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: f"{row.target}: {row.how}")
def test_an_attack_is_stopped(row: Attack, scene: Scene, request: pytest.FixtureRequest) -> None:
    _prepare(scene, row.target, request)
    if row.error is None:
        row.act(scene)
        _load(scene, row.target)
        return

    with pytest.raises(row.error) as caught:
        row.act(scene)
        _load(scene, row.target)

    message = str(caught.value)
    assert type(caught.value) is row.error
    assert row.sentence in message
    assert "\n" not in message and len(message) < 700


def table() -> str:
    """Return the table of docs/security.md."""
    lines = ["| what | attack | what stops it |", "|---|---|---|"]
    for row in ATTACKS:
        sentence = row.sentence if row.error is None else f'"{row.sentence}"'
        lines.append(f"| {row.target} | {row.how} | {sentence} |")
    return "\n".join(lines)


def test_no_attack_is_listed_twice() -> None:
    names = [(row.target, row.how) for row in ATTACKS]

    assert len(set(names)) == len(names)


def test_the_page_lists_these_attacks() -> None:
    text = PAGE.read_text(encoding="utf-8")

    listed = text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()

    assert listed == table(), "set the table of docs/security.md to `table()`"
