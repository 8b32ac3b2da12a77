"""What is installed can be built against, with CMake and with pkg-config, wherever it is moved."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
C_FOLDER = ROOT / "runtime" / "c"
_PROGRAM = """
#include <cff.h>
#include <stdio.h>
int main(void) {
  cff_session_options options;
  if (cff_session_options_init(&options, sizeof options) != CFF_OK) return 1;
  if (cff_session_open(NULL, &options, NULL) != CFF_ERROR_USAGE) return 1;
  printf("%u %s\\n", (unsigned)cff_abi_version(), cff_status_str(CFF_ERROR_USAGE));
  return 0;
}
"""
_SAID = "1 CFF_ERROR_USAGE\n"
_PROJECT = """
cmake_minimum_required(VERSION 3.16)
project(program LANGUAGES C)
find_package(cff {version} REQUIRED)
add_executable(program program.c)
target_link_libraries(program PRIVATE cff::cff)
"""


def _run(command: Sequence[object], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | environment,
    )


def _must(command: Sequence[object], **environment: str) -> str:
    done = _run(command, **environment)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _clean_environment() -> dict[str, str]:
    """Return what hides the places of ONNX Runtime from a program: it must find it by itself."""
    return {"LD_LIBRARY_PATH": "", "CFF_ONNXRUNTIME_ROOT": "", "LD_PRELOAD": ""}


@pytest.fixture(scope="module")
def prefix(c_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The install prefix, moved after the installation."""
    if os.environ.get("CFF_C_SANITIZE"):
        pytest.skip("programs of others are not built with sanitizers")
    before = tmp_path_factory.mktemp("prefix") / "before"
    _must(["cmake", "--install", c_build, "--prefix", before])
    return before.rename(before.parent / "after")


def test_what_is_installed(prefix: Path) -> None:
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    (libdir,) = {Path(name).parent for name in files if name.endswith("libcff.so")}
    expected = ["libcff.so", "libcff.so.1", "libcff.so.1.0.1.0", "pkgconfig/cff.pc"]
    expected += [f"cmake/cff/cff{part}.cmake" for part in ("Config", "ConfigVersion", "Targets")]
    expected += ["cmake/cff/cffTargets-release.cmake"]
    assert files == {"include/cff.h", *(str(libdir / name) for name in expected)}


def test_find_package(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(_PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(_PROJECT.format(version="1.0.1"))
    build = tmp_path / "build"
    configure = ["cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"]
    _must(configure, **_clean_environment())
    _must(["cmake", "--build", build], **_clean_environment())
    assert _must([build / "program"], **_clean_environment()) == _SAID


@pytest.mark.parametrize("version", ["2", "1.1"])
def test_find_package_refuses_another_abi(version: str, prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "program.c").write_text(_PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(_PROJECT.format(version=version))
    build = tmp_path / "build"
    done = _run(["cmake", "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"])
    assert done.returncode != 0
    assert "compatible" in done.stderr


@pytest.mark.parametrize("compiler", ["cc", "c++"])
def test_pkg_config(compiler: str, prefix: Path, tmp_path: Path) -> None:
    for tool in ("pkg-config", compiler):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    source = tmp_path / ("program.cpp" if compiler == "c++" else "program.c")
    source.write_text(_PROGRAM)
    (pc,) = prefix.rglob("cff.pc")
    path = {"PKG_CONFIG_PATH": str(pc.parent)}
    flags = _must(["pkg-config", "--cflags", "--libs", "cff"], **path).split()
    assert _must(["pkg-config", "--modversion", "cff"], **path).startswith("1.")
    libdir = _must(["pkg-config", "--variable=libdir", "cff"], **path).strip()
    program = tmp_path / "program"
    _must([compiler, source, *flags, f"-Wl,-rpath,{libdir}", "-o", program], **_clean_environment())
    assert _must([program], **_clean_environment()) == _SAID


def test_installed_library_finds_onnxruntime_beside_itself(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    (library,) = prefix.rglob("libcff.so.1")
    dynamic = _must(["readelf", "-d", library])
    assert "[libonnxruntime.so.1]" in dynamic
    assert "[$ORIGIN:" in dynamic
    assert "[libcff.so.1]" in dynamic


def test_library_starts_with_any_version_of_onnxruntime(prefix: Path, tmp_path: Path) -> None:
    """Its libraries name their function after their version; ours must not ask for one."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed")
    (tmp_path / "other.c").write_text("const void *OrtGetApiBase(void) { return 0; }\n")
    (tmp_path / "other.map").write_text("VERS_9.9.9 { global: OrtGetApiBase; local: *; };\n")
    (tmp_path / "program.c").write_text(_PROGRAM)
    other, program = tmp_path / "libonnxruntime.so.1", tmp_path / "program"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libonnxruntime.so.1", "-Wl,--version-script"]
    _must(["cc", tmp_path / "other.c", *flags, tmp_path / "other.map", "-o", other])
    (library,) = prefix.rglob("libcff.so")
    folder = library.parent
    command = ["cc", f"-I{prefix / 'include'}", tmp_path / "program.c", f"-L{folder}", "-lcff"]
    _must([*command, f"-Wl,-rpath,{folder}", "-o", program])
    found = {**_clean_environment(), "LD_LIBRARY_PATH": str(tmp_path), "LD_BIND_NOW": "1"}
    assert _must([program], **found) == _SAID


def test_presets_are_those_that_the_documents_name() -> None:
    presets = json.loads((C_FOLDER / "CMakePresets.json").read_text())
    names = [preset["name"] for preset in presets["configurePresets"]]
    assert names == [preset["name"] for preset in presets["buildPresets"]]
    document = (ROOT / "docs" / "libcff_build.md").read_text()
    for name in names:
        assert f"`{name}`" in document


def test_missing_onnxruntime_is_told_with_the_next_step(tmp_path: Path) -> None:
    done = _run(
        ["cmake", "-S", C_FOLDER, "-B", tmp_path / "build", f"-DCFF_ONNXRUNTIME_ROOT={tmp_path}"]
    )
    assert done.returncode != 0
    assert str(tmp_path) in done.stderr
    assert "make onnxruntime" in " ".join(done.stderr.split())


# ---- scripts/onnxruntime_for_c.py, without a network ---------------------------------------------


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    path = ROOT / "scripts" / "onnxruntime_for_c.py"
    spec = importlib.util.spec_from_file_location("onnxruntime_for_c", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tar(files: dict[str, bytes], compression: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _deb(data: bytes) -> bytes:
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", data)):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


_C_HEADER = b"#define ORT_API_VERSION 21\n"
_RELEASE = {
    "onnxruntime-linux-x64-1.21.0/include/onnxruntime_c_api.h": _C_HEADER,
    "onnxruntime-linux-x64-1.21.0/include/core/providers/resource.h": b"",
    "onnxruntime-linux-x64-1.21.0/lib/libonnxruntime.so.1.21.0": b"not a header",
    "onnxruntime-linux-x64-1.21.0/include/../../../out.h": b"a way out",
}
_DEBIAN = {
    "./usr/include/onnxruntime/onnxruntime_c_api.h": _C_HEADER,
    "./usr/include/onnxruntime/core/providers/resource.h": b"",
    "./usr/share/doc/copyright": b"not a header",
}


@pytest.mark.parametrize("kind", ["deb", "tgz"])
def test_headers_come_from_either_archive(
    kind: str, fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(_deb(_tar(_DEBIAN, "xz")) if kind == "deb" else _tar(_RELEASE, "gz"))
    folder = tmp_path / "deep" / "include"
    fetch.place_headers(folder, archive)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.h"))
    assert found == ["core/providers/resource.h", "onnxruntime_c_api.h"]
    assert fetch.api_version(folder) == 21
    assert [path.name for path in folder.parent.iterdir()] == ["include"]
    monkeypatch.setattr(fetch, "SOURCES", ())
    fetch.place_headers(folder)  # there: nothing is downloaded


@pytest.mark.parametrize("kept", [0, 7, 8, 30, 68, 100, 200])
def test_damaged_archives_change_nothing(kept: int, fetch: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(_deb(_tar(_DEBIAN, "xz"))[:kept])
    with pytest.raises(fetch.SetupError, match="must"):
        fetch.place_headers(tmp_path / "include", archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_another_version_is_refused(fetch: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    files = {"x/include/onnxruntime_c_api.h": b"#define ORT_API_VERSION 14\n"}
    archive.write_bytes(_tar(files, "gz"))
    with pytest.raises(fetch.SetupError, match="must be of API 21, got 14"):
        fetch.place_headers(tmp_path / "include", archive)


def test_downloads_are_checked(
    fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(_deb(_tar(_DEBIAN, "xz")))
    wrong = fetch.Source(archive.as_uri(), "0" * 64)
    monkeypatch.setattr(fetch, "SOURCES", (wrong, fetch.Source("file:///none", None)))
    with pytest.raises(fetch.SetupError, match=f"SHA-256 must be {'0' * 64}, got ") as caught:
        fetch.place_headers(tmp_path / "include")
    assert "file:///none" in str(caught.value)
    assert "CFF_ONNXRUNTIME_ROOT" in str(caught.value)
    monkeypatch.setattr(fetch, "SOURCES", (wrong, fetch.Source(archive.as_uri(), None)))
    fetch.place_headers(tmp_path / "include")
    assert fetch.api_version(tmp_path / "include") == 21


def test_library_is_linked_and_linked_anew(fetch: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for _ in range(2):
        fetch.place_library(tmp_path / "lib")
        link = tmp_path / "lib" / "libonnxruntime.so"
        assert link.resolve().name.startswith("libonnxruntime.so.1.")
        assert link.resolve().read_bytes()[:4] == b"\x7fELF"
        (tmp_path / "lib" / "libonnxruntime.so.1").unlink()
        (tmp_path / "lib" / "libonnxruntime.so.1").symlink_to("/of an older environment")
    names = sorted(path.name for path in (tmp_path / "lib").iterdir())
    assert names == ["libonnxruntime.so", "libonnxruntime.so.1"]


def test_a_root_that_is_set_is_left_alone(
    fetch: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CFF_ONNXRUNTIME_ROOT", "/elsewhere")
    assert fetch.main(["--out", str(tmp_path / "out")]) == 0
    assert "/elsewhere is used" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
