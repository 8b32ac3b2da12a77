"""``cff-export --sign``: what it signs, and what a box with the public key makes of it."""

import json
import shutil
from pathlib import Path

import pytest

from cff_export.cli import main
from cff_runtime import Bundle
from cff_runtime.errors import BundleError
from cff_runtime.trust import TRUSTED_KEY_VARIABLE
from cff_runtime.trust.keys import read_public_key

pytest.importorskip("cryptography", reason="cff-edge[sign] is not installed")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def bundle(lite_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lite_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """An encrypted private key and its public half, as PEM files."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem, private, public = serialization.Encoding.PEM, tmp_path / "k.key", tmp_path / "k.pem"
    locked = serialization.BestAvailableEncryption(b"secret")
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    private.chmod(0o600)
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, info))
    return private, public


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFF_SIGN_PASSPHRASE", "secret")
    monkeypatch.delenv(TRUSTED_KEY_VARIABLE, raising=False)


def test_a_bundle_is_signed_and_otherwise_left_alone(
    bundle: Path, keys: tuple[Path, Path], capsys: Captured
) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(BundleError, match="must be signed by a trusted key"):
        Bundle.open(bundle, trusted=[keys[1]])

    assert main([str(bundle), "--sign", str(keys[0])]) == 0

    key_id = read_public_key(keys[1]).id
    assert capsys.readouterr().out == f"{bundle / 'manifest.sig'}  signed by {key_id}\n"
    assert Bundle.open(bundle, trusted=[keys[1]]).manifest.precisions == ("fp32",)
    Bundle.open(bundle)
    after = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    signature = json.loads(after.pop(bundle / "manifest.sig"))
    assert after == before
    assert set(signature) == {"schema_version", "algorithm", "key_id", "signature"}


def test_a_changed_bundle_must_be_signed_again(bundle: Path, keys: tuple[Path, Path]) -> None:
    assert main([str(bundle), "--sign", str(keys[0])]) == 0
    assert main([str(bundle), "--precision", "fp16"]) == 0
    assert not (bundle / "manifest.sig").exists()
    with pytest.raises(BundleError, match="has no signature"):
        Bundle.open(bundle, trusted=[keys[1]])
    Bundle.open(bundle)

    assert main([str(bundle), "--sign", str(keys[0])]) == 0
    assert main([str(bundle), "--sign", str(keys[0])]) == 0  # and again

    opened = Bundle.open(bundle, trusted=[keys[1]])
    assert opened.manifest.precisions == ("fp32", "fp16")
    assert "manifest.sig" not in opened.manifest.files


def test_a_precision_is_added_and_signed_in_one_go(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    # the box's variable may be set here too: the exporter makes what is not signed yet
    monkeypatch.setenv(TRUSTED_KEY_VARIABLE, str(keys[1]))

    arguments = [str(bundle), "--out", str(out), "--precision", "fp16", "--sign", str(keys[0])]
    assert main(arguments) == 0

    assert Bundle.open(out, "fp16").verified
    with pytest.raises(BundleError, match="it has no signature"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("passphrase", "its passphrase be the right one"),
        ("public", "must be an Ed25519 private key"),
        ("missing", "must be a readable file"),
    ],
)
def test_a_key_that_does_not_sign_is_one_sentence_and_no_work(
    damage: str,
    sentence: str,
    bundle: Path,
    keys: tuple[Path, Path],
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = {"public": keys[1], "missing": bundle / "none"}.get(damage, keys[0])
    if damage == "passphrase":
        monkeypatch.setenv("CFF_SIGN_PASSPHRASE", "wrong")

    assert main([str(bundle), "--precision", "fp16", "--sign", str(path)]) == 2

    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert sentence in err and "secret" not in err
    assert not (bundle / "manifest.sig").exists()
    assert Bundle.open(bundle).manifest.precisions == ("fp32",)


def test_a_damaged_bundle_is_not_signed(
    bundle: Path, keys: tuple[Path, Path], capsys: Captured
) -> None:
    (bundle / "parity.json").write_text("{}")

    assert main([str(bundle), "--sign", str(keys[0])]) == 1

    assert "bytes, got 2" in capsys.readouterr().err
    assert not (bundle / "manifest.sig").exists()
