"""docs/libcff.md is what the header says, and all of it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "scripts"
HEADER = ROOT / "runtime" / "c" / "include" / "cff.h"


@pytest.fixture(scope="module")
def c_header() -> ModuleType:
    spec = importlib.util.spec_from_file_location("c_header", SCRIPTS / "c_header.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["c_header"] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_document_is_the_header() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "c_docs.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_document_holds_every_declaration() -> None:
    document = (ROOT / "docs" / "libcff.md").read_text()
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    names = set(re.findall(r"\b(?:cff|CFF)_(?!H\b|API\b)\w+", text))
    assert len(names) > 70
    for name in names:
        assert re.search(rf"\b{name}\b", document), name
    anchors = {match.lower() for match in re.findall(r"^#+ `?([\w ]+)`?$", document, re.M)}
    for link in re.findall(r"\]\(#([\w-]+)\)", document):
        assert re.sub(r"-\d+$", "", link) in anchors


def test_every_comment_of_the_header_is_there() -> None:
    document = " ".join((ROOT / "docs" / "libcff.md").read_text().replace("`", "").split())
    comments = re.findall(r"/\*(.*?)\*/", HEADER.read_text(), flags=re.DOTALL)
    for comment in comments[1:]:  # the first is code in part
        words = " ".join(re.sub(r"^ \*", "", comment, flags=re.MULTILINE).split())
        if words.startswith("----") or words in ("CFF_H",):
            continue
        for part in re.split(r" (?=(?:\w+): )", words.replace("`", "")):
            text = re.sub(r"^(\w+): ", r"\1: ", part)
            assert text.replace("|", "\\|") in document, text


@pytest.mark.parametrize(
    "wrong",
    [
        "/* a */\nint cff_outside(void);\n",
        "/* a */\ntypedef struct cff_x {\n  int a, b; /* two */ int c;\n} cff_x;\n",
        "int main(void);\n",
    ],
)
def test_what_the_scripts_do_not_know_is_an_error(
    wrong: str, c_header: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "cff.h"
    path.write_text(wrong)
    with pytest.raises(c_header.HeaderError):
        c_header.read_header(path)


def test_stale_document_is_an_error(tmp_path: Path) -> None:
    for folder in ("scripts", "docs", "runtime/c/include"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("c_docs.py", "c_header.py"):
        (tmp_path / "scripts" / name).write_bytes((SCRIPTS / name).read_bytes())
    text = HEADER.read_text()
    (tmp_path / "runtime/c/include/cff.h").write_text(text.replace("not enough memory", "none"))
    document = tmp_path / "docs" / "libcff.md"
    command = [sys.executable, str(tmp_path / "scripts" / "c_docs.py")]
    for before in (None, (ROOT / "docs" / "libcff.md").read_text()):
        if before is not None:
            document.write_text(before)
        done = subprocess.run(
            [*command, "--check"], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "run scripts/c_docs.py" in done.stderr
    subprocess.run(command, check=True, timeout=60)
    subprocess.run([*command, "--check"], check=True, timeout=60)
