import importlib
import inspect
import json
import pkgutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cff_runtime
import cff_runtime.backends
from cff_runtime import Bundle, Inspector, Profile

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "open_clip",
)
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]

# what a box without the training packages looks like: their import raises ImportError
BLOCK = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Refuse())
"""


def test_importing_the_package_loads_nothing_heavy(run_python: RunPython) -> None:
    code = (
        "import sys, cff_runtime, cff_runtime.cli, cff_runtime.verification\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )

    done = run_python(code)

    assert done.stdout.strip() == "[]", done.stderr


def test_nothing_reports_usage(run_python: RunPython) -> None:
    """ONNX Runtime would start a thread for it when it is imported."""
    count = "len(os.listdir('/proc/self/task'))"
    code = (
        "import os\nos.environ.pop('ORT_DISABLE_TELEMETRY', None)\n"
        f"import numpy, cff_runtime\nbefore = {count}\nimport onnxruntime\n"
        f"print(os.environ['ORT_DISABLE_TELEMETRY'], {count} - before)"
    )

    done = run_python(code)

    assert done.stdout.split() == ["1", "0"], done.stderr


def test_every_module_imports_without_the_training_packages(run_python: RunPython) -> None:
    names = [m.name for m in pkgutil.walk_packages(cff_runtime.__path__, "cff_runtime.")]
    assert len(names) >= 18
    code = (
        "BLOCKED = ('torch', 'torchvision', 'onnx', 'onnxscript', 'open_clip', 'cff_edge')"
        f"{BLOCK}\nimport importlib\n"
        f"for name in {names}: importlib.import_module(name)\nprint('done')"
    )

    done = run_python(code)

    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("package", [cff_runtime, cff_runtime.backends])
def test_all_is_in_step_with_the_namespace(package: ModuleType) -> None:
    public = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", package.__name__).startswith(package.__name__)
    }

    assert len(package.__all__) == len(set(package.__all__))
    assert set(package.__all__) == public


def test_every_backend_of_the_table_is_a_module_that_can_be_opened() -> None:
    for module_name, extra in cff_runtime.backends.BACKENDS.values():
        assert callable(importlib.import_module(module_name).open_backend)
        assert "cff-edge[" in extra


@pytest.fixture
def part_files(
    good_parts: list[np.ndarray], bad_part: np.ndarray, tmp_path: Path
) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.png" for name in ("good_0", "good_1", "bad")}
    for path, image in zip(files.values(), (*good_parts[:2], bad_part), strict=True):
        Image.fromarray(image).save(path)
    return files


END_TO_END = """
import json, sys
from cff_runtime.cli import main
bundle, profile, *goods, bad = sys.argv[1:]
assert main(["enroll", bundle, *goods, "--product", "ring", "--out", profile]) == 0
assert main(["inspect", bundle, bad, *goods, "--profile", profile, "--json"]) == 0
assert main(["verify", bundle]) == 0
print([name for name in BLOCKED if sys.modules.get(name)])
"""


def test_enrol_inspect_and_verify_run_without_torch_and_onnx(
    lite_bundle: Bundle,
    lite_inspector: Inspector,
    part_files: dict[str, Path],
    run_python: RunPython,
    tmp_path: Path,
) -> None:
    profile_path = tmp_path / "ring.safetensors"
    goods, bad = [part_files["good_0"], part_files["good_1"]], part_files["bad"]
    code = (
        "BLOCKED = ('torch', 'torchvision', 'onnx', 'onnxscript', 'open_clip', 'cff_edge')"
        + BLOCK
        + END_TO_END
    )

    done = run_python(code, lite_bundle.path, profile_path, *goods, bad)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    results: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith("{")]
    assert [result["verdict"] for result in results] == ["reject", "pass", "pass"]
    here = lite_inspector.inspect(bad, Profile.load(profile_path))
    assert results[0]["score"] == pytest.approx(here.score, abs=1e-6)
    assert lines[-2].startswith("passed")


def test_a_box_without_onnxruntime_is_told_what_to_install(
    lite_bundle: Bundle, run_python: RunPython
) -> None:
    code = (
        f"BLOCKED = ('onnxruntime',){BLOCK}\n"
        "from cff_runtime.cli import main\nsys.exit(main(['verify', sys.argv[1]]))"
    )

    done = run_python(code, lite_bundle.path)

    assert done.returncode == 1
    assert "cff-edge[cpu]" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
