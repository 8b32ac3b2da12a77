"""`cff-bench footprint`: what an installation of the box takes."""

import importlib.util
import json
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from cff_bench import footprint
from cff_bench.cli import main
from cff_bench.footprint import run_footprint, too_large
from cff_runtime.errors import MissingDependencyError, UsageError


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return run_footprint(3)


def test_everything_that_the_extra_requires_is_counted(report: dict[str, Any]) -> None:
    names = {package["name"] for package in report["packages"]}
    assert {"cff-edge", "numpy", "opencv-python", "pillow", "safetensors", "onnxruntime"} <= names
    assert not names & {"torch", "onnx", "ray", "pytest", "scikit-learn"}


def test_sizes_are_those_on_disk(report: dict[str, Any]) -> None:
    files = distribution("numpy").files or []
    paths = [Path(str(distribution("numpy").locate_file(file))) for file in files]
    expected = sum(path.stat().st_size for path in paths if path.is_file()) / 2**20
    sizes = {package["name"]: package["mib"] for package in report["packages"]}
    assert sizes["numpy"] == pytest.approx(expected, rel=1e-3)
    assert sizes["cff-edge"] > 0.5  # also where it is installed as an editable one
    assert report["size_mib"] == pytest.approx(sum(sizes.values()))


def test_limits(report: dict[str, Any]) -> None:
    assert report["import_ms"]["n"] == 3
    within = {"size_mib": 100.0, "import_ms": {"p50_ms": 50.0}}
    assert not too_large({**report, **within})
    assert too_large({**report, **within, "size_mib": 400.0})
    assert too_large({**report, **within, "import_ms": {"p50_ms": 151.0}})


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="`n` must be at least 1, got 0"):
        run_footprint(0)
    monkeypatch.setattr(footprint, "EXTRA", "cpu,abacus")
    monkeypatch.setattr(footprint, "_PROJECT", "no-such-package")
    with pytest.raises(MissingDependencyError, match="`no-such-package` must be installed"):
        run_footprint(1)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["footprint", "-n", "1", "--json", str(tmp_path / "f.json")]) == 0
    assert "opencv-python" in capsys.readouterr().out
    assert json.loads((tmp_path / "f.json").read_text())["size_at_most_mib"] == 350


def test_sentence_in_the_readme() -> None:
    path = Path(__file__).parents[2] / "scripts" / "update_tables.py"
    spec = importlib.util.spec_from_file_location("update_tables", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    sizes = {"a": 40, "b": 30, "c": 20, "d": 1}
    packages = [{"name": name, "version": "1", "mib": mib} for name, mib in sizes.items()]
    said = script.TABLES["footprint"][1](
        {
            "extra": "cpu",
            "packages": packages,
            "size_mib": 91.4,
            "size_at_most_mib": 350,
            "import_ms": {"p50_ms": 88.6, "n": 11},
            "import_at_most_ms": 150,
        }
    )
    assert "`cff-edge[cpu]` takes 91 MiB on disk (a 40, b 30, c 20; held to 350)" in said
    assert "takes 89 ms beyond NumPy's own import (held to 150; median of 11" in said
