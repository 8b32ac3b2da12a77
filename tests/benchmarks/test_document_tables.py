"""Tables of the documents about time: digits from reports written by hand."""

from typing import Any

from cff_bench.document_tables.latency import evaluate_cost, latency, peers
from cff_bench.document_tables.table6 import table6, table6_full, table6_plot, table6_shapes
from cff_bench.report import Check, Column, Plot, PlotSeries, Report, Table

ENVIRONMENT = {"cpu_model": "A CPU", "cores_available": 2, "date_utc": "2026-01-02T03:04:05+00:00"}


def head(name: str, is_folded: bool, runtime: str, p50_ms: float | None) -> dict[str, Any]:
    return {
        "head": name,
        "form": "folded" if is_folded else "as trained",
        "folded": is_folded,
        "runtime": runtime,
        "runtime_name": {"pytorch": "PyTorch", "compiled": "torch.compile"}.get(runtime, "ORT"),
        "p50_ms": p50_ms,
        "paper_inference_ms": 41.6,
        "params_mi": 2.2529,
        "macs_g": 3.2299,
    }


def table6_report() -> dict[str, Any]:
    columns = [Column("head", "head", "left"), Column("p50_ms", "p50 ms", spec=".1f")]
    rows = [
        head("none", False, "pytorch", 34.84),
        head("none", False, "compiled", None),
        head("none", True, "onnxruntime", 17.2),
    ]
    ratio = {"limit": None, "paper": 69.6 / 41.6, "p50": 1.962}
    ratios = [
        {**ratio, "name": "linear unfolded pytorch / none unfolded pytorch"},
        {**ratio, "name": "linear folded / none folded", "p50": 1.012, "limit": 1.05},
    ]
    points = PlotSeries("ORT, folded", [6.4598], [17.2])
    return Report(
        "table6",
        "Table 6",
        ["cff-bench", "table6", "--grid"],
        ENVIRONMENT,
        {"n": 50, "threads": 2},
        tables=[
            Table("table6", "Heads", columns, rows),
            Table("ratios", "Ratios", [Column("name", "ratio", "left")], ratios, "Of medians."),
            Table("grid", "Other shapes", columns, rows[:1]),
        ],
        plots=[Plot("latency", "Latency", "scatter", series=[points])],
    ).to_dict()


def test_table6_in_short() -> None:
    words, _, table = table6(table6_report()).partition("\n\n")
    assert "n = 50, 2 threads" in words
    assert "(linear / none 1.67); folded here: linear folded / none folded: 1.01." in words
    assert table.splitlines()[2:] == [
        "| none | as trained | PyTorch | 34.8 | 41.6 | 2.25 | 3.230 |",
        "| none | folded | ORT | 17.2 |  | 2.25 | 3.230 |",
    ]


def test_table6_in_full() -> None:
    text = table6_full(table6_report())
    assert text.startswith("A CPU, threads: 2, batch 1, fp32, n = 50, 2026-01-02T03:04:05+00:00 ")
    assert "(`cff-bench table6 --grid`)" in text
    assert "Heads:\n\n| head | p50 ms |\n| --- | ---: |\n| none | 34.8 |\n| none | – |" in text
    assert text.endswith("| linear folded / none folded |\n\nOf medians.")
    shapes = "Other shapes:\n\n| head | p50 ms |\n| --- | ---: |\n| none | 34.8 |"
    assert table6_shapes(table6_report()) == shapes
    assert table6_plot(table6_report()).splitlines()[2:] == ["| ORT, folded | 6.46 | 17.20 |"]


def test_cost_of_evaluation() -> None:
    columns = [Column("subject", "what", "left"), Column("p50_ms", "p50 ms", spec=".0f")]
    rows = [{"subject": "evaluate", "p50_ms": 2134.4}]
    report = Report(
        "evaluate-cost",
        "Cost",
        ["cff-bench", "evaluate-cost"],
        ENVIRONMENT,
        {"size_px": 518},
        tables=[Table("cost", "Maps of 518 px", columns, rows)],
    )
    text = evaluate_cost(report.to_dict())
    assert "A CPU, one product's images at once (`cff-bench evaluate-cost`)." in text
    assert text.endswith(
        "Maps of 518 px:\n\n| what | p50 ms |\n| --- | ---: |\n| evaluate | 2134 |"
    )


def test_latency_of_the_readme() -> None:
    times = {"p50_ms": 1.364, "p90_ms": 1.43, "p99_ms": 1.47}
    facts = {
        "bundle": {"precision": "fp32", "input_px": [256, 256]},
        "profile": {"n_references": 4},
        "stages": [{"name": "decode", **times, "share": 0.15}],
        "total": {**times, "n": 200},
    }
    text = latency(Report("latency", "L", [], ENVIRONMENT, {}, facts=facts).to_dict())
    assert "A CPU (2 cores, no GPU), fp32, 256 px, K = 4, batch 1, n = 200" in text
    assert "| decode | 1.36 | 1.43 | 1.47 | 15% |\n| total | 1.36 | 1.43 | 1.47 |  |" in text


def test_peers_with_one_that_is_absent() -> None:
    ours = {"name": "ours", "n": 50, "p50_ms": 9.04, "p90_ms": 9.2, "ratio": 1.0}
    report = Report(
        "peers",
        "Peers",
        ["cff-bench", "peers"],
        ENVIRONMENT,
        {"threads": 2},
        tables=[
            Table("peers/net", "One inspection", [], [ours, {"name": "theirs"}]),
            Table("peers/net/parts", "Parts", [], []),
        ],
        checks=[Check.of("eager / ours", 4.891, 4.0, better="higher")],
        notes=["theirs did not run: not there"],
    )
    text = peers(report.to_dict())
    assert "| ours | 50 | 9.0 | 9.2 | 1.00 | – | – |\n| theirs | – | – | – | – | – | – |" in text
    assert "- eager / ours: 4.89, at least 4: holds\n\n- theirs did not run: not there" in text
    assert "Parts" not in text
