"""Keys, signatures and trust: made by openssl where it is there, checked by the runtime."""

import argparse
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from cff_runtime import Bundle, Profile
from cff_runtime.errors import (
    BundleError,
    CffError,
    MissingDependencyError,
    ProfileError,
    UsageError,
)
from cff_runtime.imaging import decode_image, load_image
from cff_runtime.profile_history import record, store_profile, undo
from cff_runtime.storage import open_regular, read_limited
from cff_runtime.trust import TRUSTED_KEY_VARIABLE, keys_for, require_trusted, trust_nobody
from cff_runtime.trust.command import add_sign_profile_parser, add_trust_options
from cff_runtime.trust.graph_claims import read_claims
from cff_runtime.trust.keys import read_private_key, read_public_key
from cff_runtime.trust.ownership import foreign_writer
from cff_runtime.trust.profile_content import profile_content
from cff_runtime.trust.signature import BUNDLE_PURPOSE, make_signature, require_signature

needs_cryptography = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('cryptography')",
    reason="cff-edge[sign] is not installed",
)
Pair = tuple[Path, Path]


def _openssl(*arguments: object) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _pair(folder: Path, name: str, *options: str) -> Pair:
    """Make a key as docs/security.md says."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    _openssl("genpkey", "-algorithm", "ed25519", *options, "-out", private)
    private.chmod(0o600)
    passed = ["-passin", options[-1]] if options else []
    _openssl("pkey", "-in", private, *passed, "-pubout", "-out", public)
    return private, public


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(tmp_path_factory.mktemp("pair"), "box")


@pytest.fixture(scope="module")
def other_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(tmp_path_factory.mktemp("pair"), "other")


@pytest.fixture
def profile_file(lite_profile: Profile, tmp_path: Path) -> Path:
    lite_profile.save(tmp_path / "ring.safetensors")
    return tmp_path / "ring.safetensors"


def _run(*arguments: object) -> int:
    """Run ``sign-profile`` as `cff-run` has it."""
    parser = argparse.ArgumentParser()
    add_sign_profile_parser(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["sign-profile", *map(str, arguments)])
    code: int = parsed.command(parsed)
    return code


# --- keys ---------------------------------------------------------------------------------------


@needs_cryptography
def test_openssl_and_the_runtime_agree_about_a_signature(pair: Pair, tmp_path: Path) -> None:
    private, public = pair
    message = BUNDLE_PURPOSE + b'{"id": 1}'
    (tmp_path / "message").write_bytes(message)
    _openssl(
        *("pkeyutl", "-sign", "-rawin", "-inkey", private),
        *("-in", tmp_path / "message", "-out", tmp_path / "signature"),
    )
    theirs = (tmp_path / "signature").read_bytes()

    fields = json.loads(make_signature(read_private_key(private), BUNDLE_PURPOSE, b'{"id": 1}'))

    assert bytes.fromhex(fields["signature"]) == theirs  # Ed25519 has one signature per message
    assert read_public_key(public).accepts(theirs, message)
    assert not read_public_key(public).accepts(theirs, message + b" ")
    assert (fields["schema_version"], fields["algorithm"]) == (1, "ed25519")


@needs_cryptography
def test_the_name_of_a_key_is_the_hash_of_its_32_bytes(pair: Pair, tmp_path: Path) -> None:
    import hashlib

    private, public = pair
    _openssl("pkey", "-pubin", "-in", public, "-outform", "DER", "-out", tmp_path / "der")
    raw = (tmp_path / "der").read_bytes()[-32:]

    assert read_public_key(public).id == hashlib.sha256(raw).hexdigest()[:16]
    assert read_private_key(private).id == read_public_key(public).id


@needs_cryptography
def test_an_encrypted_key_wants_its_passphrase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = _pair(tmp_path, "locked", "-aes-256-cbc", "-pass", "pass:secret")
    assert b"ENCRYPTED" in private.read_bytes()

    with pytest.raises(UsageError, match="must come with its passphrase in `CFF_SIGN_PASSPHRASE`"):
        read_private_key(private)
    monkeypatch.setenv("CFF_SIGN_PASSPHRASE", "wrong")
    with pytest.raises(UsageError, match="its passphrase be the right one"):
        read_private_key(private)
    monkeypatch.setenv("CFF_SIGN_PASSPHRASE", "secret")

    assert read_private_key(private).id == read_public_key(public).id
    assert read_private_key(private, lambda: "secret").id == read_public_key(public).id


@needs_cryptography
def test_what_is_no_private_key_is_refused(pair: Pair, tmp_path: Path) -> None:
    _openssl("genpkey", "-algorithm", "x25519", "-out", tmp_path / "x25519.key")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    for path, expected in (
        (pair[1], "must be an Ed25519 private key"),
        (tmp_path / "x25519.key", "must be one of Ed25519, got X25519PrivateKey"),
        (tmp_path / "text", "must be an Ed25519 private key and be PEM text"),
        (tmp_path / "large", "must be a readable file: it must have at most 16384 bytes"),
        (tmp_path / "none", "must be a readable file: No such file"),
        (tmp_path, "must be a readable file"),
    ):
        with pytest.raises(UsageError, match=expected):
            read_private_key(path)


@needs_cryptography
def test_a_private_key_that_others_may_read_is_remarked(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_key = tmp_path / "open.key"
    shutil.copy(pair[0], open_key)
    open_key.chmod(0o644)

    read_private_key(pair[0])
    assert not caplog.records
    read_private_key(open_key)

    assert "others may read the private key" in caplog.text


def test_without_the_package_the_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lite_bundle: Bundle
) -> None:
    import sys

    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----")
    for name in [*sys.modules]:
        if name.split(".")[0] == "cryptography":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)

    with pytest.raises(MissingDependencyError, match=r"install cff-edge\[sign\]"):
        Bundle.open(lite_bundle.path, trusted=[tmp_path / "key.pem"])
    Bundle.open(lite_bundle.path)


# --- trust --------------------------------------------------------------------------------------


@needs_cryptography
def test_any_of_several_trusted_keys_will_do(pair: Pair, other_pair: Pair) -> None:
    both = [read_public_key(one[1]) for one in (pair, other_pair)]
    for one, key in zip((pair, other_pair), both, strict=True):
        text = make_signature(read_private_key(one[0]), BUNDLE_PURPOSE, b"content")

        found = require_signature(text, BUNDLE_PURPOSE, b"content", both, "it", CffError)

        assert found is key
    with pytest.raises(BundleError, match=f"{both[0].id}.*it is signed by {both[1].id}"):
        require_signature(text, BUNDLE_PURPOSE, b"content", both[:1], "it", BundleError)


@needs_cryptography
def test_the_environment_asks_for_signatures_everywhere(
    pair: Pair, lite_bundle: Bundle, profile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUSTED_KEY_VARIABLE, str(pair[1]))

    with pytest.raises(BundleError, match="must be signed by a trusted key"):
        Bundle.open(lite_bundle.path)
    with pytest.raises(ProfileError, match="must be signed by a trusted key"):
        Profile.load(profile_file)
    with trust_nobody():
        Bundle.open(lite_bundle.path)
    Bundle.open(lite_bundle.path, trusted=())
    assert os.environ[TRUSTED_KEY_VARIABLE] == str(pair[1])


@needs_cryptography
def test_the_option_takes_the_place_of_the_environment(
    pair: Pair, other_pair: Pair, profile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(profile_file, "--key", pair[0])
    monkeypatch.setenv(TRUSTED_KEY_VARIABLE, str(other_pair[1]))

    with require_trusted([pair[1]]):
        Profile.load(profile_file)
        assert [key.path for key in keys_for(None)] == [pair[1]]
    with require_trusted([other_pair[1], pair[1]]):
        Profile.load(profile_file)
    with require_trusted(None), pytest.raises(ProfileError, match="it is signed by"):
        Profile.load(profile_file)
    with pytest.raises(RuntimeError), require_trusted([pair[1]]):
        raise RuntimeError
    assert os.environ[TRUSTED_KEY_VARIABLE] == str(other_pair[1])


def test_without_a_key_nothing_is_asked(
    lite_bundle: Bundle, profile_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRUSTED_KEY_VARIABLE, raising=False)
    (profile_file.parent / "manifest.sig").write_text("nonsense")

    with require_trusted(None), require_trusted([]):
        assert keys_for(None) == ()
        Bundle.open(lite_bundle.path)
        Profile.load(profile_file)


def test_a_key_that_cannot_be_read_stops_the_command_at_once(tmp_path: Path) -> None:
    entered = False
    missing = tmp_path / "none.pem"
    with pytest.raises(UsageError, match="must be a readable file"), require_trusted([missing]):
        entered = True
    with pytest.raises(UsageError, match="must hold no ':'"), require_trusted(["a:b"]):
        entered = True
    assert not entered


def test_every_command_gets_the_option_but_signing() -> None:
    parser = argparse.ArgumentParser()
    commands: Any = parser.add_subparsers()
    commands.add_parser("inspect")
    add_sign_profile_parser(commands)
    add_trust_options(commands)

    parsed = parser.parse_args(["inspect", "--trusted-key", "a.pem", "--trusted-key", "b.pem"])

    assert parsed.trusted_key == [Path("a.pem"), Path("b.pem")]
    assert parser.parse_args(["inspect"]).trusted_key is None
    assert "--trusted-key" not in commands.choices["sign-profile"].format_help()


# --- profiles -----------------------------------------------------------------------------------


@needs_cryptography
def test_a_signed_profile_is_the_same_profile(
    pair: Pair, profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Profile.load(profile_file)

    assert _run(profile_file, "--key", pair[0], "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    assert facts["key_id"] == read_public_key(pair[1]).id
    assert (facts["product"], facts["n_references"]) == ("ring", 4)
    after = Profile.load(profile_file, trusted=[pair[1]])
    assert after.threshold == before.threshold and after.history == before.history
    for one, other in zip(before.banks, after.banks, strict=True):
        np.testing.assert_array_equal(one, other)
    assert _run(profile_file, "--key", pair[0]) == 0
    Profile.load(profile_file, trusted=[pair[1]])
    assert "signed by" in capsys.readouterr().out


@needs_cryptography
def test_the_signature_survives_another_name_and_another_layout(
    pair: Pair, profile_file: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    _run(profile_file, "--key", pair[0])
    with safe_open(profile_file, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(profile_file)
    shuffled = profile_file.with_name("shuffled")
    save_file(dict(reversed(tensors.items())), shuffled, metadata=metadata)

    assert Profile.load(shuffled, trusted=[pair[1]]).product == "ring"


def test_what_is_signed_is_the_documented_text() -> None:
    import hashlib

    bank, pixels = np.eye(3, 2, dtype=np.float32), np.arange(4, dtype=np.uint8).reshape(2, 2)

    found = profile_content('{"a": 1}', {"b": bank.T, "a": pixels})

    def sha(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    values = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert json.loads(found) == {
        "facts": sha(b'{"a": 1}'),
        "tensors": {
            "a": ["U8", [2, 2], sha(bytes([0, 1, 2, 3]))],
            "b": ["F32", [2, 3], sha(np.array(values, "<f4").tobytes())],
        },
    }
    assert found.startswith(b'{"facts":"') and b": " not in found


@needs_cryptography
def test_a_change_unsigns_and_undo_puts_the_signed_version_back(
    pair: Pair, profile_file: Path
) -> None:
    _run(profile_file, "--key", pair[0])
    signed = profile_file.read_bytes()
    changed = record(Profile.load(profile_file, trusted=[pair[1]]), "test")
    store_profile(profile_file, changed)
    with require_trusted([pair[1]]):
        with pytest.raises(ProfileError, match="must be signed"):
            Profile.load(profile_file)

        undo(profile_file)

        assert profile_file.read_bytes() == signed
        Profile.load(profile_file)


@needs_cryptography
def test_a_damaged_profile_is_not_signed(pair: Pair, profile_file: Path) -> None:
    os.truncate(profile_file, 1000)

    with pytest.raises(ProfileError, match="complete safetensors file"):
        _run(profile_file, "--key", pair[0])
    assert profile_file.stat().st_size == 1000


# --- reading ------------------------------------------------------------------------------------


def test_a_bundle_made_by_hand_reads_what_is_there(lite_bundle: Bundle, bundle_copy: Path) -> None:
    opened = Bundle.open(bundle_copy)
    by_hand = Bundle(bundle_copy, lite_bundle.manifest)
    assert opened.view("fp32").verified and not by_hand.verified
    (bundle_copy / "parity.json").write_bytes(b"{}")

    assert by_hand.read("parity.json") == b"{}"
    with pytest.raises(BundleError, match="must not change while the bundle is in use"):
        opened.read("parity.json")
    (bundle_copy / "parity.json").unlink()
    with pytest.raises(BundleError, match="must be readable: No such file"):
        opened.read("parity.json")


def test_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")

    assert read_limited(path, 5) == b"12345"
    with pytest.raises(ValueError, match="at most 4 bytes"):
        read_limited(path, 4)
    os.mkfifo(tmp_path / "pipe")
    for what in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular file|directory"):
            open_regular(what)


def test_an_image_in_memory_is_read_as_from_its_file(
    draw_part: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> None:
    path = tmp_path / "part.png"
    Image.fromarray(draw_part(1)).save(path)

    np.testing.assert_array_equal(decode_image(path.read_bytes(), "part"), load_image(path))
    assert load_image(path, max_pixels=150 * 120).shape == (120, 150, 3)
    with pytest.raises(CffError, match="at most 17999 pixels, got 150 x 120"):
        load_image(path, max_pixels=150 * 120 - 1)


def test_the_graphs_of_a_bundle_claim_nothing_else(lite_bundle: Bundle) -> None:
    onnx = pytest.importorskip("onnx")
    names = [lite_bundle.manifest.encoder, *lite_bundle.manifest.scorers]
    for name in names:
        data = lite_bundle.read(name)
        claims = read_claims(memoryview(data))
        nodes = onnx.load_from_string(data).graph.node

        assert claims.operators == {(node.domain, node.op_type) for node in nodes}
        assert claims.files == claims.functions == set()
        assert claims.refusal(name, set()) is None


def test_claims_inside_functions_attributes_and_branches_are_found() -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in (("location", "a/b.bin"), ("offset", "0")):
        weights.external_data.add(key=key, value=value)
    inner = helper.make_node("Deep", [], ["y"], domain="inner.ops")
    branch = helper.make_graph([inner], "branch", [], [])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["k"], value=weights),
        helper.make_node("Mine", [], ["m"], domain="own"),
    ]
    called = helper.make_node("Called", [], ["z"], domain="called.ops")
    function = helper.make_function("own", "Mine", [], ["z"], [called], [])
    model = helper.make_model(helper.make_graph(nodes, "g", [], []), functions=[function])

    claims = read_claims(memoryview(model.SerializeToString()))

    assert claims.files == {"a/b.bin"} and claims.functions == {"own"}
    assert ("inner.ops", "Deep") in claims.operators
    assert ("called.ops", "Called") in claims.operators
    assert "'a/b.bin'" in str(claims.refusal("g.onnx", {"b.bin"}))
    assert "of domain 'called.ops'" in str(claims.refusal("g.onnx", {"a/b.bin"}))


@pytest.mark.parametrize("seed", range(20))
def test_bytes_that_are_no_graph_end_in_one_kind_of_error(seed: int) -> None:
    data = np.random.default_rng(seed).bytes(2000)
    for content in (data, b"\x3a\xff\xff\xff\x7f", b"\x3a" * 200, b"\xff" * 11, b"\x0d\1"):
        try:
            read_claims(memoryview(content))
        except ValueError:
            continue


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX")
def test_who_could_have_written_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "engines"
    folder.mkdir(mode=0o755)
    path = folder / "encoder.engine"
    path.write_bytes(b"plan")
    path.chmod(0o644)
    assert foreign_writer(path) is None

    path.chmod(0o666)
    assert "may be written by everybody (mode 666)" in str(foreign_writer(path))
    path.chmod(0o644)
    folder.chmod(0o1777)
    assert "may be written by everybody" in str(foreign_writer(path))
    folder.chmod(0o755)
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "link").symlink_to(path)
    assert "outside" in str(foreign_writer(outside / "link"))
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "belongs to user" in str(foreign_writer(path))


# --- a box that may write nothing and reach nobody ----------------------------------------------

_INSPECT = """
import json, os, sys
bundle, profile, image, warm, out, uid = sys.argv[1:]
events = []
WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod",
           "os.chown", "os.truncate", "os.utime")
def hook(name, arguments):
    if name == "open":
        path, mode, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not isinstance(path, int):
            events.append(str(path))
    elif name in WRITING:
        events.append(str(arguments[0]))
    elif name.startswith("socket."):
        raise RuntimeError(f"no network: {name}")
from cff_runtime.cli import main
def inspect(folder):
    return main(["inspect", bundle, image, "--profile", profile, "--threads", "1", "--json",
                 "--overlay", folder, "--maps", folder])
inspect(warm)  # whatever it imports, from folders that nobody may read
if int(uid):
    os.setgroups([]), os.setgid(int(uid)), os.setuid(int(uid))
sys.addaudithook(hook)
code = inspect(out)
print(json.dumps(events))
sys.exit(code)
"""


def test_a_box_inspects_with_nothing_to_write_and_no_network(
    bundle_copy: Path,
    profile_file: Path,
    draw_part: Callable[..., NDArray[np.uint8]],
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    image, out, warm = tmp_path / "part.png", tmp_path / "out", tmp_path_factory.mktemp("warm")
    Image.fromarray(draw_part(3, defective=True)).save(image)
    out.mkdir()
    uid = 0
    if os.geteuid() == 0:  # root may write anywhere: become nobody
        uid = 65534
        os.chown(out, uid, uid)
        for parent in list(tmp_path.parents)[:2]:
            parent.chmod(0o755)
    for path in [*bundle_copy.rglob("*"), bundle_copy, profile_file, image, tmp_path]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    out.chmod(0o755)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    try:
        done = run_python(_INSPECT, bundle_copy, profile_file, image, warm, out, uid)
    finally:
        for path in [tmp_path, *(p for p in bundle_copy.rglob("*") if p.is_dir()), bundle_copy]:
            path.chmod(0o755)

    assert done.returncode == 0, done.stderr[-2000:]
    first, result, written = map(json.loads, done.stdout.splitlines())
    assert result["verdict"] == first["verdict"] == "reject"
    assert written and all(path.startswith(str(out)) for path in written), written
    assert {path.name for path in out.iterdir()} == {"part.png", "part.npy"}
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    changed = {path for path in after if before.get(path) != after[path]}
    assert changed == {out, out / "part.png", out / "part.npy"}
