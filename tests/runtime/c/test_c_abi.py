"""What libcff shows to programs is what its header declares."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
HEADER = C_FOLDER / "include" / "cff.h"
SCRIPTS = C_FOLDER.parents[1] / "scripts"


def _declared() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"^CFF_API\b[^;]*?\b(cff_\w+)\(", text, flags=re.MULTILINE))


def test_library_and_header_keep_the_committed_abi(c_build: Path) -> None:
    """Functions by `nm -D`; types, sizes, places and numbers by a program of the header."""
    for tool in ("nm", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    done = _run_script(SCRIPTS / "c_abi.py", "--library", str(c_build / "libcff.so"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("CFF_ERROR_BUFFER = 9", "CFF_ERROR_BUFFER = 10", "+enum cff_status CFF_ERROR_BUFFER 10"),
        ("int32_t height;   /* px */", "int64_t height;   /* px */", "int64_t height"),
        ("cff_profile_free(cff_profile *profile)", "cff_profile_free(void *profile)", "+function"),
        ("#define CFF_ABI_VERSION 1", "#define CFF_ABI_VERSION 2", "+macro CFF_ABI_VERSION 2"),
    ],
)
def test_a_changed_abi_is_an_error(old: str, new: str, said: str, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    for name in ("runtime/c/include/cff.h", "runtime/c/abi/libcff.symbols"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(C_FOLDER.parents[1] / name, tmp_path / name)
    for name in ("c_abi.py", "c_header.py"):
        (tmp_path / "scripts").mkdir(exist_ok=True)
        shutil.copy(SCRIPTS / name, tmp_path / "scripts" / name)
    header = tmp_path / "runtime/c/include/cff.h"
    assert old in header.read_text()
    header.write_text(header.read_text().replace(old, new, 1))
    done = _run_script(tmp_path / "scripts" / "c_abi.py")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _run_script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(path), "--check", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_export_map_is_the_header() -> None:
    text = (C_FOLDER / "libcff.map").read_text()
    assert re.findall(r"^\s+(cff_\w+);", text, flags=re.MULTILINE) == sorted(_declared())


def test_abi_version(c_library: ctypes.CDLL, c_build: Path) -> None:
    version = int(re.findall(r"#define CFF_ABI_VERSION (\d+)", HEADER.read_text())[0])
    assert c_library.cff_abi_version() == version
    assert (c_build / f"libcff.so.{version}").exists()


def test_status_names(c_library: ctypes.CDLL) -> None:
    numbers = re.findall(r"(CFF_OK|CFF_ERROR_\w+) = (\d+)", HEADER.read_text())
    assert [int(number) for _, number in numbers] == list(range(len(numbers)))
    for name, number in numbers:
        assert c_library.cff_status_str(int(number)).decode() == name
    for number in (-1, len(numbers), 2**31 - 1):
        assert c_library.cff_status_str(number) == b"unknown status"


@pytest.mark.parametrize(
    ("compiler", "flags"), [("cc", "-std=c99"), ("c++", "-std=c++17"), ("clang", "-std=c99")]
)
def test_header_alone_compiles(compiler: str, flags: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    source = tmp_path / ("a.cpp" if "++" in compiler else "a.c")
    source.write_text('#include "cff.h"\nint main(void) { return CFF_ABI_VERSION == 0; }\n')
    command = [compiler, flags, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, f"-I{HEADER.parent}", str(source)], check=True, timeout=60)


def test_example_of_the_header_compiles(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    example = re.findall(r"^ \*     (.*)$", HEADER.read_text(), flags=re.MULTILINE)
    body = "\n".join(example)
    source = tmp_path / "a.c"
    image = "const uint8_t *pixels, int32_t width, int32_t height, size_t stride"
    source.write_text(
        f'#include <stdio.h>\n#include "cff.h"\nvoid example({image});\n'
        f"void example({image}) {{\n{body}\n}}\n"
    )
    command = ["cc", "-std=c99", "-Wall", "-Wpedantic", "-Werror", "-fsyntax-only"]
    subprocess.run([*command, f"-I{HEADER.parent}", str(source)], check=True, timeout=60)


def test_errors_belong_to_their_thread(c_library: ctypes.CDLL) -> None:
    import threading

    assert c_library.cff_profile_save(None, None) == 1
    said = c_library.cff_last_error()
    other: list[bytes] = []
    thread = threading.Thread(target=lambda: other.append(c_library.cff_last_error()))
    thread.start()
    thread.join()
    assert said.startswith(b"`profile` and `path`")
    assert other == [b""]
