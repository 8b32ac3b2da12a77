#!/usr/bin/env python3
"""Fill build/onnxruntime with what libcff is built with: headers and library of ONNX Runtime.

include/   headers of ONNX Runtime 1.21 (API 21), of a package of Debian, checked by its SHA-256
lib/       links to the library inside the `onnxruntime` wheel of this Python

The wheels hold no headers. Any library from 1.21 on runs what was compiled with these. What is
there and sound is left alone; with `CFF_ONNXRUNTIME_ROOT` set, that folder is meant to be used and
nothing is done.
"""

import argparse
import hashlib
import http.client
import importlib.util
import io
import lzma
import os
import re
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
API_VERSION = 21
TIMEOUT_S = 30
MAX_BYTES = 64 << 20
_DEB_SHA256 = "14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08"


class Source(NamedTuple):
    """A place to download the headers from."""

    url: str
    sha256: str | None  # None: not known to us, only TLS vouches for the file


SOURCES = (
    Source(
        "http://deb.debian.org/debian/pool/main/o/onnxruntime/"
        "libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb",
        _DEB_SHA256,
    ),
    Source(
        "https://snapshot.debian.org/file/24211608c53cf623c58ab2b2f9d4157ed06b3a76", _DEB_SHA256
    ),
    Source(
        "https://github.com/microsoft/onnxruntime/releases/download/v1.21.0/"
        "onnxruntime-linux-x64-1.21.0.tgz",
        None,
    ),
)


class SetupError(Exception):
    """What must hold, what came, the next step."""


def main(argv: Sequence[str]) -> int:
    """Fill the folder; return the exit code."""
    parser = argparse.ArgumentParser(description="Fetch what libcff is built with.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "onnxruntime", metavar="DIR")
    parser.add_argument(
        "--archive", type=Path, metavar="FILE", help="a .deb or .tgz that lies here already"
    )
    arguments = parser.parse_args(argv)
    if given := os.environ.get("CFF_ONNXRUNTIME_ROOT"):
        _say(f"CFF_ONNXRUNTIME_ROOT is set: {given} is used, nothing to do")
        return 0
    try:
        place_headers(arguments.out / "include", arguments.archive)
        place_library(arguments.out / "lib")
    except SetupError as error:
        _say(f"error: {error}")
    except OSError as error:
        _say(f"error: `{error.filename or arguments.out}`: {error.strerror or error}")
    else:
        return 0
    return 1


def place_headers(folder: Path, archive: Path | None = None) -> None:
    """Put the headers into `folder`, whole or not at all."""
    if api_version(folder) == API_VERSION and archive is None:
        _say(f"{folder}: there")
        return
    if archive is not None:
        headers, origin = unpack(archive.read_bytes(), str(archive)), str(archive)
    else:
        headers, origin = _download()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "include"
        for name, content in headers.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        if (found := api_version(new)) != API_VERSION:
            raise SetupError(f"headers must be of API {API_VERSION}, got {found} from {origin}")
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new.rename(folder)
    _say(f"{folder}: {len(headers)} headers from {origin}")


def place_library(folder: Path) -> None:
    """Link the library of the installed wheel into `folder`."""
    library = _wheel_library()
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("libonnxruntime.so.1", library), ("libonnxruntime.so", None)):
        link, wanted = folder / name, str(target or "libonnxruntime.so.1")
        if link.is_symlink() and str(link.readlink()) == wanted:
            continue
        new = folder / f".{name}.{os.getpid()}"
        new.unlink(missing_ok=True)
        new.symlink_to(wanted)
        new.replace(link)
    _say(f"{folder}: links to {library}")


def api_version(folder: Path) -> int | None:
    """Return the API version of the C header in `folder`, None if there is none."""
    try:
        text = (folder / "onnxruntime_c_api.h").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(r"^#define ORT_API_VERSION (\d+)", text, flags=re.MULTILINE)
    return int(found[1]) if found else None


def unpack(archive: bytes, name: str) -> dict[str, bytes]:
    """Return the headers in a package of Debian or a release's tarball, by their place."""
    try:
        if archive.startswith(b"!<arch>\n"):
            data = dict(ar_members(archive)).get("data.tar.xz")
            if data is None:
                raise SetupError(f"`{name}` must hold data.tar.xz, does not")
            archive = lzma.decompress(data)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            headers = {}
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or "include" not in parts or not member.name.endswith(".h"):
                    continue
                place = PurePosixPath(*parts[parts.index("include") + 1 :])
                if place.parts[0] == "onnxruntime":
                    place = place.relative_to("onnxruntime")
                file = tar.extractfile(member)
                if file is not None and ".." not in place.parts:
                    headers[str(place)] = file.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, ValueError) as error:
        raise SetupError(f"`{name}` must be a whole .deb or .tgz: {error}") from error
    return headers


def ar_members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every member of an `ar` archive."""
    at = 8
    while at + 60 <= len(archive):
        header = archive[at : at + 60]
        n_bytes = int(header[48:58])
        if header[58:] != b"`\n" or n_bytes < 0 or at + 60 + n_bytes > len(archive):
            raise ValueError("damaged `ar` member")
        yield header[:16].decode("ascii").strip().rstrip("/"), archive[at + 60 : at + 60 + n_bytes]
        at += 60 + n_bytes + n_bytes % 2


def _download() -> tuple[dict[str, bytes], str]:
    """Return headers of the first source that answers, and its address."""
    failures = []
    for source in SOURCES:
        try:
            with urllib.request.urlopen(source.url, timeout=TIMEOUT_S) as answer:
                archive = answer.read(MAX_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{source.url}: {getattr(error, 'reason', error)}")
            continue
        sha256 = hashlib.sha256(archive).hexdigest()
        if source.sha256 is None:
            _say(f"note: no SHA-256 is known for {source.url}, got {sha256}")
        elif sha256 != source.sha256:
            failures.append(f"{source.url}: SHA-256 must be {source.sha256}, got {sha256}")
            continue
        return unpack(archive, source.url), source.url
    raise SetupError(
        "headers of ONNX Runtime must come from one of these, none worked:\n  "
        + "\n  ".join(failures)
        + "\ndownload one elsewhere and give it with --archive, or set CFF_ONNXRUNTIME_ROOT to a "
        "folder with include/ and lib/"
    )


def _wheel_library() -> Path:
    """Return the library inside the installed wheel."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise SetupError(
            f"the package `onnxruntime` must be installed for {sys.executable}, is not; "
            "pip install onnxruntime, or set CFF_ONNXRUNTIME_ROOT"
        )
    folder = Path(spec.origin).parent / "capi"
    found = sorted(folder.glob("libonnxruntime.so.1.*"))
    if not found:
        raise SetupError(
            f"{folder} must hold libonnxruntime.so.1.*, this wheel does not; "
            "set CFF_ONNXRUNTIME_ROOT to an unpacked release of ONNX Runtime"
        )
    library = found[-1]
    minor = int(library.name.split(".")[3])
    if minor < API_VERSION:
        raise SetupError(
            f"`onnxruntime` must be 1.{API_VERSION} or newer, got 1.{minor}; "
            "pip install --upgrade onnxruntime"
        )
    return library.resolve()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
