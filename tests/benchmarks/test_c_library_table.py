"""The document's table of libcff: digits from a report written by hand."""

import importlib.util
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "update_tables.py"


def _row(name: str, in_c: float, in_python: float) -> dict[str, Any]:
    ratio = in_c / in_python
    return {"name": name, "libcff_p50_ms": in_c, "python_p50_ms": in_python, "p50_ratio": ratio}


REPORT: dict[str, Any] = {
    "rows": [_row("total", 7.5, 10.0), _row("encode", 4.0, 4.004)],
    "image": {"width_px": 640, "height_px": 480},
    "environment": {"cpu_model": "CPU"},
    "settings": {"n": 300, "per_turn": 5, "threads": 2},
    "memory": {
        "libcff": {"now": 70.0, "peak": 75.4},
        "python": {"now": 180.0, "peak": 188.6},
        "files_mb": 15.0,
        "extra_at_most_mb": 64.0,
        "n_references": 4,
        "backbone": "a-net",
        "input_px": [256, 320],
    },
    "endurance": {"n": 10000, "growth": 0.00123},
}
TABLE = """\
| ms | libcff | Python | ratio |
| --- | --- | --- | --- |
| total | 7.50 | 10.00 | 0.75 |
| encode | 4.00 | 4.00 | 1.00 |"""


def test_table() -> None:
    spec = importlib.util.spec_from_file_location("update_tables", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file, write = script.TABLES["c_library"]
    assert file == "benchmarks/results/c_library.json"
    words, _, table = write(REPORT).partition("\n\n")
    assert table == TABLE
    assert "640 x 480 px to 320 px, K = 4, `a-net`, CPU, 2 threads, medians of 300 each" in words
    assert "at its peak 75 MB, Python 189; graphs and memory bank are 15 MB of it" in words
    assert words.endswith("Over 10000 further inspections its memory grew by 0.12%.")
