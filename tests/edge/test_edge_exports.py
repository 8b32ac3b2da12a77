"""`cff_edge` offers what it lists, and imports none of it before it is asked for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cff_edge

HEAVY = ("torch", "torchvision", "open_clip", "sklearn", "tqdm")


def test_exports_are_sorted_in_step_and_importable() -> None:
    assert cff_edge.__all__ == sorted(cff_edge.__all__)
    assert list(cff_edge._MODULE_OF) == cff_edge.__all__
    for name, module in cff_edge._MODULE_OF.items():
        owner = importlib.import_module(f"cff_edge.{module}")
        assert getattr(cff_edge, name) is getattr(owner, name)


def test_type_checkers_see_the_same_names() -> None:
    source = Path(cff_edge.__file__).read_text(encoding="utf-8")
    block = source.split("if TYPE_CHECKING:")[1].split("_MODULE_OF")[0]
    lines = [line.split(" import ") for line in block.splitlines() if " import " in line]
    listed = {
        name.strip(): module.split()[-1].removeprefix("cff_edge.")
        for module, names in lines
        for name in names.split(",")
    }
    assert listed == cff_edge._MODULE_OF


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cff_edge' has no attribute 'Trainer'"):
        _ = cff_edge.Trainer


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, cff_edge; print([m for m in {(*HEAVY, 'numpy')} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom cff_edge.cli import main\ntry: main(['--help'])\n"
        f"except SystemExit: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--resume" in done.stdout
