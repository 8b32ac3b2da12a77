"""libcff where things go wrong: no memory, no disk, other locales, wrong calls."""

import ctypes
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from cff_runtime import Bundle, Profile

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
SOURCES = re.findall(r"^\w+$", (C_FOLDER / "fuzz" / "sources.txt").read_text(), re.MULTILINE)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
SANITIZER_NAMES = {"LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"}
WRAPPED = (
    *("malloc", "calloc", "realloc", "realpath", "fdopen", "open64", "stat64", "fstat64"),
    *("fread", "fseeko64", "fwrite", "fflush", "fsync", "fclose", "rename"),
)
CLEAN = {name: value for name, value in os.environ.items() if name not in SANITIZER_NAMES}
SIZE = ctypes.c_size_t


def _compile(out: Path, programs: tuple[str, ...], *flags: str) -> Path:
    """Build a program of `runtime/c/tests` with all that it needs."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("a C compiler is not installed")
    command = [
        *(compiler, "-std=c99", "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *flags),
        *(f"-I{C_FOLDER / 'include'}", f"-I{C_FOLDER / 'src'}", "-o", str(out)),
        *(str(C_FOLDER / "tests" / f"{name}.c") for name in programs),
        *(str(C_FOLDER / "src" / f"{name}.c") for name in SOURCES),
        "-lm",
    ]
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False, env=CLEAN
    )
    if "cannot find" in built.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the program `read_and_write`."""
    out = tmp_path_factory.mktemp("driver") / "read_and_write"
    return _compile(out, ("read_and_write",), "-gdwarf-4")  # newer ones puzzle valgrind


@pytest.fixture
def profile_path(lite_profile: Profile, tmp_path: Path) -> Path:
    path = tmp_path / "ring.safetensors"
    lite_profile.save(path)
    return path


def _run(command: list[Any], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=CLEAN | environment,
    )


def _facts(path: Path) -> str:
    with safe_open(path, framework="numpy") as file:
        return str(file.metadata()["cff_profile"])


# ---- no memory, no disk --------------------------------------------------------------------------


def test_every_call_fails_once(lite_bundle: Bundle, profile_path: Path, tmp_path: Path) -> None:
    """Memory, reads, writes, renames: a status and a sentence, nothing left, the old file whole."""
    wraps = "-Wl," + ",".join(f"--wrap={name}" for name in WRAPPED)
    program = _compile(
        tmp_path / "failing_files", ("failing_files", "failing_calls"), *SANITIZE, wraps
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = _run([program, lite_bundle.path, profile_path, folder])
    assert ran.returncode == 0, ran.stderr


def test_valgrind_finds_nothing(
    driver: Path, lite_bundle: Bundle, profile_path: Path, tmp_path: Path
) -> None:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    checks = ("--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=all")
    command = ["valgrind", "-q", *checks, driver, lite_bundle.path]
    done = _run([*command, profile_path, tmp_path / "copy"])
    assert done.returncode == 0, done.stderr
    assert _facts(tmp_path / "copy") == _facts(profile_path)
    for damaged in (b"", profile_path.read_bytes()[:5000], profile_path.read_bytes()[:-1]):
        (tmp_path / "damaged").write_bytes(damaged)
        done = _run([*command, tmp_path / "damaged", tmp_path / "none"])
        assert done.returncode == 5, done.stderr


def _check_refused(done: subprocess.CompletedProcess[str], folder: Path, old: Path) -> None:
    assert done.returncode == 3, done.stderr
    assert "could not be written" in done.stderr and "nothing was changed" in done.stderr
    assert [entry.name for entry in folder.iterdir()] == [old.name]
    assert old.read_bytes() == b"old"


def test_limit_of_file_size(
    driver: Path, lite_bundle: Bundle, profile_path: Path, tmp_path: Path
) -> None:
    """The system stops writing after some blocks, as on a full disk."""
    old = tmp_path / "folder" / "ring"
    old.parent.mkdir()
    old.write_bytes(b"old")
    for n_blocks in (0, 1, 2, 20):
        limited = f'trap "" XFSZ; ulimit -f {n_blocks}; exec "$@"'
        command = ["sh", "-c", limited, "sh", driver, lite_bundle.path, profile_path, old]
        _check_refused(_run(command), old.parent, old)


def test_full_disk(driver: Path, lite_bundle: Bundle, profile_path: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or _run(mount).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        old = disk / "ring"
        old.write_bytes(b"old")
        done = _run([driver, lite_bundle.path, profile_path, old])
        _check_refused(done, disk, old)
        assert "No space left" in done.stderr
    finally:
        _run(["umount", disk])


# ---- locales -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "half"), [("de_DE", "0,5"), ("ps_AF", "0\u066b5")])
def test_other_decimal_points(
    driver: Path,
    lite_bundle: Bundle,
    profile_path: Path,
    tmp_path: Path,
    name: str,
    half: str,
) -> None:
    """A comma, and a point of two bytes: numbers stay as they are in files."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed, no locale can be made")
    full = f"{name}.UTF-8"
    made = _run(["localedef", "-i", name, "-f", "UTF-8", tmp_path / full])
    setting = {"LOCPATH": str(tmp_path), "LC_ALL": full}
    command = [driver, lite_bundle.path, profile_path, tmp_path / "copy"]
    done = _run(command, **setting)
    if not done.stdout.startswith(half):
        pytest.skip(f"the locale {full} could not be made: {made.stderr}")
    assert done.returncode == 0, done.stderr
    facts = _facts(profile_path)
    assert done.stdout.split("\n") == [half, lite_bundle.manifest.id, facts, ""]
    assert _facts(tmp_path / "copy") == facts


# ---- the entry points, with what nobody should give them -----------------------------------------


class Handles:
    """A bundle and a profile of libcff, opened."""

    def __init__(self, library: ctypes.CDLL, bundle: Path, profile: Path) -> None:
        self.library = library
        self.bundle, self.profile = ctypes.c_void_p(), ctypes.c_void_p()
        opened = library.cff_bundle_open(os.fsencode(bundle), None, ctypes.byref(self.bundle))
        loaded = library.cff_profile_load(os.fsencode(profile), ctypes.byref(self.profile))
        assert (opened, loaded) == (0, 0), library.cff_last_error()

    def of(self, kind: str) -> ctypes.c_void_p:
        return self.bundle if kind == "bundle" else self.profile

    def free(self) -> None:
        self.library.cff_bundle_free(self.bundle)
        self.library.cff_profile_free(self.profile)


@pytest.fixture
def handles(c_library: ctypes.CDLL, lite_bundle: Bundle, profile_path: Path) -> Any:
    found = Handles(c_library, lite_bundle.path, profile_path)
    yield found
    found.free()


NULL = None
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("cff_bundle_open", (NULL, NULL, "out")),
    ("cff_bundle_open", (b"x", NULL, NULL)),
    ("cff_bundle_open", (b"", NULL, "out")),
    ("cff_bundle_open", (b"x" * (1 << 20), NULL, "out")),
    ("cff_bundle_open", (b"\xff\xfe\x1b[2J", NULL, "out")),
    ("cff_bundle_open", (b"/dev/null", NULL, "out")),
    ("cff_bundle_open", ("bundle_path", b"", "out")),
    ("cff_bundle_open", ("bundle_path", b"fp32 ", "out")),
    ("cff_bundle_open", ("bundle_path", b"\xc3" * 5000, "out")),
    ("cff_bundle_get_info", (NULL, NULL)),
    ("cff_bundle_get_info", ("bundle", NULL)),
    ("cff_bundle_get_text", (NULL, 0, NULL, SIZE(0), "size")),
    ("cff_bundle_get_text", ("bundle", 0, NULL, SIZE(0), NULL)),
    ("cff_bundle_get_text", ("bundle", 0, NULL, SIZE(2**64 - 1), "size")),
    ("cff_bundle_get_text", ("bundle", -1, NULL, SIZE(0), "size")),
    ("cff_bundle_get_text", ("bundle", 5, NULL, SIZE(0), "size")),
    ("cff_bundle_get_text", ("bundle", 2**31 - 1, NULL, SIZE(0), "size")),
    ("cff_profile_load", (NULL, "out")),
    ("cff_profile_load", (b"x", NULL)),
    ("cff_profile_load", (b"", "out")),
    ("cff_profile_load", (b"x" * (1 << 20), "out")),
    ("cff_profile_load", (b"\xff\xfe\x1b[2J", "out")),
    ("cff_profile_load", (b"/", "out")),
    ("cff_profile_load", (b"/dev/zero", "out")),
    ("cff_profile_load", ("pipe", "out")),
    ("cff_profile_save", (NULL, b"x")),
    ("cff_profile_save", ("profile", NULL)),
    ("cff_profile_save", ("profile", b"")),
    ("cff_profile_save", ("profile", b"/")),
    ("cff_profile_save", ("profile", b"/none/such")),
    ("cff_profile_save", ("profile", b"x" * (1 << 20))),
    ("cff_profile_check", (NULL, "bundle")),
    ("cff_profile_check", ("profile", NULL)),
    ("cff_profile_get_info", (NULL, NULL)),
    ("cff_profile_get_info", ("profile", NULL)),
    ("cff_profile_get_text", (NULL, 0, NULL, SIZE(0), "size")),
    ("cff_profile_get_text", ("profile", 0, NULL, SIZE(0), NULL)),
    ("cff_profile_get_text", ("profile", 6, NULL, SIZE(2**64 - 1), NULL)),
    ("cff_profile_get_text", ("profile", -(2**31), NULL, SIZE(0), "size")),
    ("cff_profile_get_text", ("profile", 7, NULL, SIZE(0), "size")),
]


@pytest.mark.parametrize(("function", "arguments"), CALLS)
def test_wrong_calls(
    c_library: ctypes.CDLL,
    handles: Handles,
    lite_bundle: Bundle,
    tmp_path: Path,
    function: str,
    arguments: tuple[Any, ...],
) -> None:
    out, size = ctypes.c_void_p(1), SIZE()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    before = sorted(entry.name for entry in tmp_path.iterdir())
    meant: dict[Any, Any] = {
        "out": ctypes.byref(out),
        "size": ctypes.byref(size),
        "bundle": handles.bundle,
        "profile": handles.profile,
        "bundle_path": os.fsencode(lite_bundle.path),
        "pipe": os.fsencode(tmp_path / "pipe"),
    }
    given = [meant[one] if isinstance(one, str) else one for one in arguments]
    status = getattr(c_library, function)(*given)
    expected = 3 if function == "cff_profile_save" and given[0] and given[1] is not None else 1
    sentence = c_library.cff_last_error().decode()  # UTF-8, whatever was given
    assert (status, sentence.isprintable()) == (expected, True), sentence
    assert len(sentence) > 20
    assert "out" not in arguments or out.value is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["bundle", "profile"])
def test_structs_of_any_size_and_place(c_library: ctypes.CDLL, handles: Handles, kind: str) -> None:
    """A caller of another version, and one that does not align: the same bytes, never more."""
    get = getattr(c_library, f"cff_{kind}_get_info")
    full = {"bundle": 12 * 4, "profile": 6 * 4 + 8 + 8 * 8}[kind]

    def ask(size: int, shift: int) -> tuple[int, bytes]:
        room = ctypes.create_string_buffer(b"\xa5" * 400, 400)
        ctypes.memmove(ctypes.byref(room, shift), struct.pack("<I", size), 4)
        status = get(handles.of(kind), ctypes.byref(room, shift))
        kept = min(size, 200) if status == 0 else 4
        assert room.raw[:shift] == b"\xa5" * shift
        assert set(room.raw[shift + kept :]) == {0xA5}
        return status, room.raw[shift + 4 : shift + kept]

    status, whole = ask(full, 0)
    assert status == 0
    for size in (4, 5, 8, full - 1, full, full + 1, 200):
        for shift in (0, 1, 3):
            status, found = ask(size, shift)
            assert status == 0
            assert found == (whole + bytes(200))[: size - 4]
    for size in (0, 3, 2**16 + 1, 2**31, 2**32 - 1):
        assert ask(size, 0)[0] == 1


@pytest.mark.parametrize("kind", ["bundle", "profile"])
def test_buffers_of_any_size_and_place(c_library: ctypes.CDLL, handles: Handles, kind: str) -> None:
    get, size = getattr(c_library, f"cff_{kind}_get_text"), SIZE()
    assert get(handles.of(kind), 1, None, SIZE(0), ctypes.byref(size)) == 0
    for room in (*range(size.value + 3), 100):
        buffer = ctypes.create_string_buffer(b"\xa5" * 120, 120)
        shift = room % 8
        status = get(handles.of(kind), 1, ctypes.byref(buffer, shift), SIZE(room), None)
        assert status == (0 if room >= size.value else 9), room
        written = size.value if status == 0 else 0
        assert buffer.raw[:shift] == b"\xa5" * shift
        assert set(buffer.raw[shift + written :]) == {0xA5}
        assert status or buffer.raw[shift + written - 1] == 0
