"""What libcff refuses before it sets a threshold, and that it survives every want of memory."""

import ctypes
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

C_FOLDER = Path(__file__).parents[3] / "runtime" / "c"
# the suite itself may run with sanitizers loaded
_SANITIZER_NAMES = {"LD_PRELOAD", "ASAN_OPTIONS"}


def _check(library: ctypes.CDLL, wishes: dict[str, float], n_defects: int) -> tuple[int, str]:
    meant = {
        "margin": 0.2,
        "max_false_reject": 0.0,
        "max_false_accept": 0.0,
        "confidence": 0.95,
        **wishes,
    }
    numbers = [ctypes.c_double(number) for number in meant.values()]
    status = library.cff__check_wishes(*numbers, ctypes.c_size_t(n_defects))
    return status, library.cff_last_error().decode()


@pytest.mark.parametrize("name", ["max_false_reject", "max_false_accept", "confidence", "margin"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.25, "-0.25"),
        (-5e-324, "-5e-324"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (-math.nan, "nan"),
    ],
)
def test_wishes_are_checked(
    c_internals: ctypes.CDLL, c_status: SimpleNamespace, name: str, value: float, text: str
) -> None:
    status, sentence = _check(c_internals, {name: value}, 1)
    assert status == c_status.USAGE
    wanted = "must be 0 to 100" if name == "margin" else "must be above 0 and below 1"
    hint = "" if name == "margin" else "; 1 % is 0.01"
    assert sentence == f"`{name}` {wanted}, got {text}{hint}"


def test_wishes_at_their_ends(c_internals: ctypes.CDLL, c_status: SimpleNamespace) -> None:
    for name in ("max_false_reject", "max_false_accept", "confidence"):
        assert _check(c_internals, {name: 1.0}, 1)[0] == c_status.USAGE
        assert _check(c_internals, {name: 5e-324}, 1)[0] == c_status.OK
        assert _check(c_internals, {name: 1 - 2**-53}, 1)[0] == c_status.OK
    assert _check(c_internals, {"max_false_reject": -0.0}, 0)[0] == c_status.OK  # no wish
    status, sentence = _check(c_internals, {"confidence": 0.0}, 0)
    assert status == c_status.USAGE
    assert "got 0.0" in sentence
    assert _check(c_internals, {"margin": 0.0}, 0)[0] == c_status.OK
    status, sentence = _check(c_internals, {"max_false_accept": 0.1}, 0)
    assert status == c_status.USAGE
    assert sentence.startswith("`max_false_accept` must come with defective parts, got none")


def test_failing_memory(tmp_path: Path) -> None:
    """Each allocation behind a threshold fails once; nothing leaks."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("a C compiler is not installed")
    sources = ["arena", "bounds", "card", "choice", "clock", "finishing", "json", "json_writer"]
    sources += ["pixels", "resize", "rule", "statement", "status", "utf8"]
    program = tmp_path / "failing_thresholds"
    command = [
        *(compiler, "-std=c99", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
        "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc",
        *(f"-I{C_FOLDER / 'include'}", f"-I{C_FOLDER / 'src'}"),
        *("-o", str(program), str(C_FOLDER / "tests" / "failing_thresholds.c")),
        *(str(C_FOLDER / "src" / f"{source}.c") for source in sources),
        "-lm",
    ]
    clean = {name: value for name, value in os.environ.items() if name not in _SANITIZER_NAMES}
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=clean
    )
    if "cannot find" in built.stderr:
        pytest.skip("the compiler's sanitizers are not installed")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [str(program)], capture_output=True, text=True, timeout=60, check=False, env=clean
    )
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
