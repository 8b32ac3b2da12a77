"""What libcff shows to programs is what its header declares."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
HEADER = C_FOLDER / "include" / "cff.h"


def _declared() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"^CFF_API\b[^;]*?\b(cff_\w+)\(", text, flags=re.MULTILINE))


def test_exported_symbols_are_the_header(c_build: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(c_build / "libcff.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    symbols = {line.split()[-1].split("@")[0] for line in listed if " A " not in line}
    assert symbols == _declared()


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
    source.write_text(
        f'#include <stdio.h>\n#include "cff.h"\nint main(void) {{\n{body}\nreturn 0;\n}}\n'
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
