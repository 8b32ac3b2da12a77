"""What importing `cff_bench` brings, and what it does not."""

import importlib
import json
import pkgutil
import subprocess
import sys

import cff_bench
from cff_bench.demo.synthetic import DEFECTS, PRODUCTS

HEAVY = ("torch", "torchvision", "open_clip", "onnx", "onnxscript", "onnxruntime", "tensorrt")


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter holds after these imports."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(finished.stdout)}


def test_import_is_free_of_other_packages() -> None:
    loaded = loaded_by("cff_bench")
    assert "cff_bench" in loaded
    assert not {*HEAVY, "numpy", "cff_edge", "cff_export", "cff_runtime"} & loaded


def test_command_line_starts_without_heavy_packages() -> None:
    loaded = loaded_by("cff_bench.cli")
    assert "cff_runtime" in loaded
    assert not {*HEAVY, "sklearn", "skimage", "tqdm"} & loaded


def test_the_demo_leaves_torch_to_the_commands_it_runs() -> None:
    """The process that waits and reports stays small."""
    loaded = loaded_by("cff_bench.demo.pipeline", "cff_bench.demo.real_parts")
    assert "sklearn" in loaded
    assert not set(HEAVY) & loaded


def test_every_module_can_be_imported_and_says_what_it_is() -> None:
    names = [info.name for info in pkgutil.walk_packages(cff_bench.__path__, "cff_bench.")]
    assert {"cff_bench.cli", "cff_bench.demo.pipeline", "cff_bench.latency"} <= set(names)
    for name in ("cff_bench", *names):
        try:
            doc = importlib.import_module(name).__doc__ or ""
        except ModuleNotFoundError as error:  # peers that nobody must have
            assert error.name in ("openvino", "anomalib"), name
            continue
        assert len(doc.split()) >= 5, name


def test_what_is_exported_is_there_and_sorted() -> None:
    for name in ("cff_bench", "cff_bench.demo"):
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", [])
        assert sorted(exported) == list(exported)
        public = {n for n, v in vars(module).items() if callable(v) and not n.startswith("_")}
        assert public == set(exported), name


def test_constants_that_name_things_are_distinct() -> None:
    assert len(set(PRODUCTS)) == len(PRODUCTS) == 7
    assert list(DEFECTS) == sorted(set(DEFECTS))
