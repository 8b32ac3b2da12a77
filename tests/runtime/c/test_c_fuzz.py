"""The fuzz targets of libcff on their seeds, and on every input that once stopped one.

`scripts/c_fuzz` is what looks for new ones; it needs clang and minutes.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
C_FOLDER = ROOT / "runtime" / "c"
FUZZ = C_FOLDER / "fuzz"
SOURCES = re.findall(r"^\w+$", (FUZZ / "sources.txt").read_text(), re.MULTILINE)
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
SANITIZER_NAMES = {"LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"}
CLEAN = {name: value for name, value in os.environ.items() if name not in SANITIZER_NAMES}


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=180,
        check=False,
        env=CLEAN | environment,
    )


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Compile what all targets share, with the sanitizers."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("a C compiler is not installed")
    folder = tmp_path_factory.mktemp("fuzz")
    shared = [C_FOLDER / "src" / f"{name}.c" for name in SOURCES]
    shared += [FUZZ / "fuzz.c", FUZZ / "standalone.c"]
    for source in shared:
        _compile(compiler, "-c", str(source), "-o", str(folder / f"{source.stem}.o"))
    return [str(folder / f"{source.stem}.o") for source in shared]


def _compile(compiler: str, *arguments: str) -> None:
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
    include = (f"-I{C_FOLDER / 'include'}", f"-I{C_FOLDER / 'src'}")
    built = _run([compiler, "-std=c99", "-g", "-O1", *warnings, *SANITIZE, *include, *arguments])
    if "cannot find" in built.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert built.returncode == 0, built.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_regressions(objects: list[str], tmp_path: Path, target: str) -> None:
    seeds = sorted((FUZZ / "corpus" / target).iterdir())
    found = FUZZ / "regressions" / target
    seeds += sorted(found.iterdir()) if found.is_dir() else []
    program = tmp_path / target
    compiler = os.environ.get("CC", "cc")
    _compile(compiler, str(FUZZ / f"fuzz_{target}.c"), *objects, "-lm", "-o", str(program))
    (tmp_path / "empty").touch()
    settings = {"TMPDIR": str(tmp_path), "ASAN_OPTIONS": "allocator_may_return_null=1"}
    done = _run([str(program), str(tmp_path / "empty"), *map(str, seeds)], **settings)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == len(seeds) + 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["empty", target])


def test_seeds_are_those_of_the_python_runtime(tmp_path: Path) -> None:
    """A format that changed needs other seeds."""
    shutil.copytree(FUZZ, tmp_path / "fuzz")
    shutil.rmtree(tmp_path / "fuzz" / "corpus")
    done = _run([sys.executable, str(tmp_path / "fuzz" / "make_seeds.py")])
    assert done.returncode == 0, done.stderr
    made, kept = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        for folder in (tmp_path / "fuzz" / "corpus", FUZZ / "corpus")
    )
    assert made == kept


def test_valid_seeds_are_taken(objects: list[str], tmp_path: Path) -> None:
    """A seed that is refused teaches a fuzzer little."""
    source = tmp_path / "taken.c"
    source.write_text(
        '#include "fuzz.h"\n#include "manifest.h"\n#include "json.h"\n'
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {\n"
        "  cff__arena arena = {NULL};\n  cff__manifest manifest;\n"
        "  FUZZ_CHECK(!cff__manifest_parse((const char *)data, n_bytes, &arena, &manifest));\n"
        "  cff__arena_free(&arena);\n  return 0;\n}\n"
    )
    include = f"-I{FUZZ}"
    program = tmp_path / "taken"
    compiler = os.environ.get("CC", "cc")
    _compile(compiler, include, str(source), *objects, "-lm", "-o", str(program))
    seeds = sorted((FUZZ / "corpus" / "manifest").iterdir())
    assert len(seeds) == 2
    done = _run([str(program), *map(str, seeds)])
    assert done.returncode == 0, done.stderr
