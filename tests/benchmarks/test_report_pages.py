"""Reports as text, Markdown and HTML, the options that write them, and docs/performance.md."""

import argparse
import html.parser
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cff_bench.report import Check, Column, Plot, PlotSeries, Report, Series, Table
from cff_bench.report.facts import machine_facts, setting_facts
from cff_bench.report.html import format_html
from cff_bench.report.markdown import format_markdown
from cff_bench.report.options import add_report_arguments, write_report
from cff_bench.report.reading import load_reports, save_reports
from cff_bench.report.terminal import format_terminal
from cff_runtime.errors import UsageError

ROOT = Path(__file__).parents[2]
_VOID = ("meta", "br", "img", "link")


def report(kind: str = "latency", **changes: Any) -> Report:
    noise = np.random.default_rng(0).standard_normal(100)
    values: dict[str, Any] = {
        "kind": kind,
        "title": f"Report of <{kind}>",
        "command": ["cff-bench", kind, "-n", "100"],
        "environment": {"cpu_model": "A CPU", "cores_available": 2, "gpu": "none", "ram_gib": 7.8},
        "settings": {"n": 100, "threads": 2, "nothing": None},
        "series": [Series(f"{kind}/total", "ms", (80 + noise).tolist(), role="total")],
        "tables": [
            Table(
                "stages",
                "Stages",
                [Column("stage", "stage", "left"), Column("p50_ms", "p50 ms", spec=".2f")],
                [{"stage": "enc|ode", "p50_ms": 4.3682}, {"stage": "search", "p50_ms": None}],
                "A note below.",
            )
        ],
        "plots": [Plot("p", "A plot", "bar", series=[PlotSeries("s", ["a"], [1.0])])],
        "checks": [
            Check.of("linear / none", 1.02, 1.05),
            Check.of("mlp", 0.9, 0.85),
            Check.of("sgemm", None, 0.9, better="higher"),
        ],
        "notes": ["The machine was not quiet."],
    }
    return Report(**{**values, **changes})


class Balance(html.parser.HTMLParser):
    """Fails where a tag is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" else []
        assert "src" not in found
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_text() -> None:
    text = format_terminal([report()])
    lines = text.splitlines()
    assert "machine  A CPU, 2 cores, 8 GiB" in lines
    assert "note     The machine was not quiet." in lines
    assert "enc|ode    4.37" in lines
    assert "search        –" in lines
    assert "holds  linear / none: 1.02, at most 1.05" in lines
    assert "FAILS  mlp: 0.9, at most 0.85" in lines
    assert "  –    sgemm: not measured; at least 0.9" in lines
    assert "nothing" not in text


def test_markdown() -> None:
    text = format_markdown([report()], level=2)
    lines = text.splitlines()
    assert lines[0] == "## Report of <latency>"
    assert "`cff-bench latency -n 100`" in lines
    assert "| stage | p50 ms |" in lines
    assert "| --- | ---: |" in lines
    assert "| enc\\|ode | 4.37 |" in lines
    assert "| search | – |" in lines
    assert "- **fails**: mlp: 0.9, at most 0.85" in lines
    assert text.endswith("\n")


def test_a_page_needs_nothing_else() -> None:
    page = format_html([report()])
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert "Report of &lt;latency&gt;" in page and "<latency>" not in page
    assert not re.search(r"(?:src|href)=|@import|url\(", page)
    assert "prefers-color-scheme:dark" in page and "@media print" in page
    assert page.count("<svg") == 2  # for a wide and for a narrow page
    assert len(page) < 40_000


def test_a_page_of_several_has_contents_and_checks_on_top() -> None:
    page = format_html([report(), report("table6")], "All", ["sweep was not measured: no bundle"])
    parser = Balance()
    parser.feed(page)
    assert {link.lstrip("#") for link in parser.links} == set(parser.ids)
    assert len(parser.ids) == 2
    top = page[: page.index("<nav>")]
    assert "2 of 6 checks hold, 2 not measured" in top
    assert "sweep was not measured: no bundle" in top
    assert top.index("✗ fails") < top.index("✓ holds")
    assert page.count("A CPU, 2 cores") == 1  # told once


def test_facts_leave_out_what_is_unknown() -> None:
    assert machine_facts({}) == {}
    found = machine_facts({"python": "3.11.7", "packages": {"onnxruntime": "1.2", "torch": None}})
    assert found == {"versions": "Python 3.11.7, onnxruntime 1.2"}
    assert setting_facts({"a": [1, 2], "b": {}, "c": True, "d": 0.5, "e": {"x": 1}}) == {
        "a": "1, 2",
        "c": "yes",
        "d": "0.5",
        "e": "x 1",
    }


def run(arguments: list[str], *reports: Report) -> int:
    parser = argparse.ArgumentParser()
    add_report_arguments(parser)
    return write_report(parser.parse_args(arguments), list(reports))


def test_files_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "new" / f"r.{end}" for end in ("json", "md", "html")]
    options = [
        word
        for option, path in zip(("--json", "--markdown", "--html"), paths, strict=True)
        for word in (option, str(path))
    ]
    assert run(options, report()) == 0
    assert load_reports(paths[0]) == [report()]
    assert paths[1].read_text() == format_markdown([report()])
    assert paths[2].read_text() == format_html([report()])
    assert "Report of <latency>" in capsys.readouterr().out


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([], report()) == 0
    assert run(["--check"], report()) == 1
    assert run(["--check"], report(checks=[Check.of("a", None, 1.0)])) == 0
    assert run(["--budget", "70ms"], report()) == 3
    assert "p95 of `latency/total` is 81." in capsys.readouterr().out
    assert run(["--budget", "0.1s", "--check"], report()) == 1
    assert run(["--budget", "80ms", "--budget-percentile", "p5"], report()) == 0
    assert "p5 of `latency/total` is 78." in capsys.readouterr().out
    with pytest.raises(UsageError):
        run(["--budget", "80ms"], report(series=[]))


@pytest.mark.parametrize(
    "arguments", [["--budget", "soon"], ["--budget", "0"], ["--budget-percentile", "100"]]
)
def test_wrong_budgets_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(arguments, report())
    assert caught.value.code == 2
    assert re.search("such as 95|80ms", capsys.readouterr().err)


@pytest.fixture
def performance_page() -> ModuleType:
    path = ROOT / "scripts/performance_page.py"
    specification = importlib.util.spec_from_file_location("performance_page", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_of_the_documents(
    tmp_path: Path, performance_page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "benchmarks/results/bench"
    save_reports(results / "a.json", [report("table6")])
    save_reports(results / "b.json", [report("latency")])
    page = tmp_path / "docs/performance.md"
    assert performance_page.main(["--check"], tmp_path) == 1
    assert not page.exists()
    assert performance_page.main([], tmp_path) == 0
    assert performance_page.main(["--check"], tmp_path) == 0
    text = page.read_text()
    assert text.index("Report of <latency>") < text.index("Report of <table6>")
    assert "- A CPU, 2 cores, 8 GiB; GPU: none (latency, table6)" in text
    assert "2 of 6 limits that the project holds itself to hold. Not held: mlp; mlp." in text
    assert "| enc\\|ode | 4.37 |" in text
    page.write_text(text.replace("4.37", "4.36"))
    assert performance_page.main(["--check"], tmp_path) == 1
    assert "differs from the JSON" in capsys.readouterr().err


def test_a_page_of_nothing_is_an_error(
    tmp_path: Path, performance_page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert performance_page.main([], tmp_path) == 2
    assert "got none" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_reports(performance_page: ModuleType) -> None:
    if not list((ROOT / performance_page.RESULTS).glob("*.json")):
        pytest.skip("no report is committed")
    assert performance_page.main(["--check"]) == 0
