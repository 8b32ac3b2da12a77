import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cff_bench.report.document import Report
from cff_bench.report.terminal import format_terminal
from cff_bench.table6 import candidates
from cff_bench.table6.candidates import (
    CALIBRATORS,
    PAPER_SHAPE,
    Candidate,
    Table6Settings,
    build_candidates,
    build_head,
    check_parity,
)
from cff_bench.table6.command import parse_grid
from cff_bench.table6.heads import FoldedHead, HeadShape, count_cost, head_to_onnx
from cff_bench.table6.measurement import HeadCeilings, Table6, find_ratios, run_table6
from cff_bench.table6.paper import PAPER
from cff_bench.table6.report import build_report, plot_data
from cff_edge.heads import Head
from cff_runtime.errors import ParityError, UsageError

SMALL = HeadShape(dim=16, n_stages=3, n_tokens=20, image_px=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(CALIBRATORS))
def test_counted_columns_are_the_papers(name: str) -> None:
    head = Head(
        (PAPER_SHAPE.dim,) * PAPER_SHAPE.n_stages,
        PAPER_SHAPE.dim,
        CALIBRATORS[name],
        projector_init="default",
    )
    cost = count_cost(head.eval(), PAPER_SHAPE)
    assert round(cost.params_mi, 2) == PAPER[name]["params_m"]
    assert round(cost.macs_g, 3) == PAPER[name]["flops_g"]
    assert round(cost.memory_gib, 4) == PAPER[name]["memory_gb"]


def test_paper_rows_agree_with_themselves() -> None:
    for row in PAPER.values():
        assert 1000 / row["inference_ms"] == pytest.approx(row["throughput"], abs=0.015)


@pytest.mark.parametrize("name", list(CALIBRATORS))
def test_folded_layers_equal_the_head(name: str) -> None:
    head = build_head(name, SMALL, seeded())
    features = [torch.randn(1, 20, 16, generator=seeded(stage)) for stage in range(3)]
    with torch.inference_mode():
        expected = head.double()([stage.double() for stage in features])
        head.float()
        folded = FoldedHead(head)(features)
    for stage in range(3):
        np.testing.assert_allclose(folded[stage].numpy(), expected[stage].numpy(), atol=1e-5)


def test_folding_leaves_one_layer_or_two() -> None:
    n_layers = {}
    for name in CALIBRATORS:
        stage = FoldedHead(build_head(name, SMALL, seeded())).stages[0]
        n_layers[name] = sum(isinstance(layer, nn.Linear) for layer in stage)
    assert n_layers == {"none": 1, "linear": 1, "mlp": 2}


def test_folded_linear_head_costs_what_no_calibration_costs() -> None:
    folded = count_cost(FoldedHead(build_head("linear", SMALL, seeded())), SMALL)
    assert folded == count_cost(build_head("none", SMALL, seeded()), SMALL)


def test_folded_mlp_head_costs_its_two_layers() -> None:
    cost = count_cost(FoldedHead(build_head("mlp", SMALL, seeded())), SMALL)
    assert cost.macs_g == pytest.approx(3 * 20 * 4 * 16 * 16 / 1e9)
    assert cost.params_mi == pytest.approx(3 * (4 * 16 * 16 + 3 * 16) / 2**20)


def test_weights_depend_on_the_seed_alone() -> None:
    first = build_head("mlp", SMALL, seeded(3)).state_dict()
    global_state = torch.random.get_rng_state()
    again = build_head("mlp", SMALL, seeded(3)).state_dict()
    assert torch.equal(global_state, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_batchnorm_statistics_are_not_the_initial_ones() -> None:
    head = build_head("mlp", SMALL, seeded())
    (norm, *_) = (module for module in head.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.running_mean.abs().max() > 0.1
    assert (norm.running_var - 1).abs().max() > 0.1


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("calibrator", ["none", "affine", "mlp"])
def test_graph_equals_a_head_of_unequal_widths(calibrator: str, folded: bool) -> None:
    head = Head((20, 24), 16, calibrator, projector_init="default").eval()
    module = FoldedHead(head) if folded else head
    model = head_to_onnx(module, n_tokens=5)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    features = [torch.randn(1, 5, width, generator=seeded(width)) for width in (20, 24)]
    outputs = session.run(None, {f"stage_{i}": f[0].numpy() for i, f in enumerate(features)})
    with torch.inference_mode():
        expected = head(features)
    for stage, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected[stage][0].numpy(), atol=1e-5)


def test_graph_of_a_folded_head_has_linear_layers_and_relu_only() -> None:
    unfolded = build_head("mlp", SMALL, seeded())
    operators = [node.op_type for node in head_to_onnx(unfolded, 20).graph.node]
    assert operators == ["Gemm", "Gemm", "BatchNormalization", "Relu", "Gemm"] * 3
    operators = [node.op_type for node in head_to_onnx(FoldedHead(unfolded), 20).graph.node]
    assert operators == ["Gemm", "Relu", "Gemm"] * 3


def test_unknown_layers_are_refused() -> None:
    head = build_head("linear", SMALL, seeded())
    head.calibrators[0] = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
    with pytest.raises(UsageError, match="none, affine or mlp"):
        FoldedHead(head)
    with pytest.raises(UsageError, match="GELU"):
        head_to_onnx(head, 20)


# by hand: 4 (1024 768 + 768) and 4 1369 1024 768, then the calibrator of each head
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("none", 3_148_800, 4 * 1369 * 1024 * 768),
        ("linear", 5_511_168, 4 * 1369 * (1024 * 768 + 768 * 768)),
        ("mlp", 12_607_488, 4 * 1369 * (1024 * 768 + 4 * 768 * 768 + 8 * 768)),
    ],
)
def test_real_projector_counts(name: str, params: int, macs: int) -> None:
    shape = HeadShape(width=1024)
    cost = count_cost(build_head(name, shape, seeded()), shape)
    assert cost.params_mi * 2**20 == params
    assert cost.macs_g * 1e9 == pytest.approx(macs, rel=1e-12)


def test_every_candidate_gives_the_same_result() -> None:
    settings = Table6Settings(n=1, warmup=0, threads=1)
    for shape in (SMALL, HeadShape(dim=16, n_stages=2, n_tokens=12, image_px=32, width=24)):
        differences = check_parity(build_candidates(settings, shape))
        assert len(differences) == 8
        assert max(differences.values()) <= 1e-5


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_wrong_result_is_not_timed(wrong: float) -> None:
    right, other = [np.zeros((4, 2))], [np.full((4, 2), wrong)]
    rows = [
        Candidate("mlp", False, "pytorch", nn.Identity(), lambda: right),
        Candidate("mlp", True, "onnxruntime", nn.Identity(), lambda: other),
    ]
    with pytest.raises(ParityError, match="mlp folded onnxruntime"):
        check_parity(rows)


def run_small(**changes: Any) -> tuple[Table6, Table6Settings]:
    settings = Table6Settings(
        n=2,
        warmup=1,
        threads=1,
        pause_ms=0.0,
        shape=SMALL,
        projector_width=24,
        grid=(HeadShape(dim=8, n_stages=2, n_tokens=6, image_px=32),),
        **{"compiled": False, **changes},
    )
    return run_table6(settings), settings


@pytest.fixture(scope="module")
def small() -> tuple[Report, Table6]:
    n_threads = torch.get_num_threads()
    table6, settings = run_small()
    assert torch.get_num_threads() == n_threads
    report = build_report(table6, settings, {"cpu_model": "a processor"})
    return Report.from_dict(json.loads(json.dumps(report.to_dict()))), table6


def test_report_has_every_row(small: tuple[Report, Table6]) -> None:
    report, _ = small
    assert report.kind == "table6"
    tables = {table.name: table for table in report.tables}
    assert list(tables) == [
        *("table6", "counted", "ratios"),
        *("projector", "projector_counted", "projector_ratios"),
        "grid",
    ]
    counted = tables["counted"].rows
    assert [(row["head"], row["form"]) for row in counted] == [
        ("none", "as trained"),
        ("linear", "as trained"),
        ("linear", "folded"),
        ("mlp", "as trained"),
        ("mlp", "folded"),
    ]
    assert counted[2]["macs_g"] == counted[0]["macs_g"] < counted[1]["macs_g"]
    assert all(ratio["low"] is ratio["high"] is None for ratio in tables["ratios"].rows)  # n = 2
    rows = tables["table6"].rows
    assert [row["name"] for row in rows] == [
        "none unfolded pytorch",
        "none folded onnxruntime",
        "linear unfolded pytorch",
        "linear unfolded onnxruntime",
        "linear folded onnxruntime",
        "mlp unfolded pytorch",
        "mlp unfolded onnxruntime",
        "mlp folded onnxruntime",
    ]
    for row in rows:
        assert row["n"] == 2
        assert row["throughput"] == pytest.approx(1000 / row["p50_ms"])
        assert row["max_abs_diff"] <= 1e-4
        assert {name: row[f"paper_{name}"] for name in PAPER[row["head"]]} == PAPER[row["head"]]
    assert len(report.series) == 3 * 8
    assert all(len(series.values) == 2 for series in report.series[:16])


def test_papers_columns_stand_beside_its_own_shape_only(small: tuple[Report, Table6]) -> None:
    report, table6 = small
    assert not [
        c for c in report.tables[0].columns + report.tables[1].columns if c.title == "paper"
    ]
    main = replace(table6.shapes[0], shape=PAPER_SHAPE)
    paper = build_report(replace(table6, shapes=[main, *table6.shapes[1:]]), Table6Settings(), {})
    titles = [column.title for table in paper.tables[:2] for column in table.columns]
    assert titles.count("paper") == 5


def named(name: str, p50_ms: float | None, macs_g: float) -> dict[str, Any]:
    head = name.split()[0]
    return {"name": name, "head": head, "p50_ms": p50_ms, "min_ms": p50_ms, "macs_g": macs_g}


def test_ratios_are_of_medians_beside_the_papers() -> None:
    rows = [
        named("none folded onnxruntime", 10.0, 2.0),
        named("linear folded onnxruntime", 10.4, 2.0),
        named("mlp folded onnxruntime", 33.0, 8.0),
        named("mlp unfolded onnxruntime", 44.0, 10.0),
        named("none unfolded compiled", None, 2.0),
        named("mlp unfolded compiled", 50.0, 10.0),
    ]
    ratios = {ratio["name"]: ratio for ratio in find_ratios(rows)}
    assert not any("compiled" in name for name in ratios)
    folded = ratios["linear folded onnxruntime / none folded onnxruntime"]
    assert folded["p50"] == pytest.approx(1.04)
    assert (folded["macs"], folded["limit"]) == (1.0, 1.05)
    assert round(folded["paper"], 2) == 1.67
    mlp = ratios["mlp folded onnxruntime / mlp unfolded onnxruntime"]
    assert mlp["p50"] == pytest.approx(0.75)
    assert (mlp["paper"], mlp["limit"]) == (None, 0.85)
    assert all(ratio["limit"] is None for ratio in find_ratios(rows, is_held=False))


def test_roofline_is_the_larger_of_operations_and_bytes() -> None:
    ceilings = HeadCeilings(gflops=200.0, gbps=20.0)
    assert ceilings.bound_ms(macs_g=3.23, moved_bytes=43e6) == pytest.approx(32.3)
    assert ceilings.bound_ms(macs_g=0.01, moved_bytes=43e6) == pytest.approx(2.15)


def test_plot_has_the_machines_roofline_and_the_papers_points(
    small: tuple[Report, Table6],
) -> None:
    report, table6 = small
    (plot,) = report.plots
    assert plot.x_log and plot.y_log
    roof, paper = plot.series[0], plot.series[-1]
    for x, y in zip(roof.x, roof.y, strict=True):
        assert y == pytest.approx(x / table6.ceilings.gflops * 1e3)
    assert paper.y == [41.6, 69.6, 133.8]
    assert paper.x == pytest.approx([6.46, 12.92, 32.366])
    lines = plot_data(report).splitlines()
    assert len(lines) == 2 + sum(len(series.x) for series in plot.series)


def test_what_cannot_be_compiled_is_a_dash_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_head: object) -> object:
        raise RuntimeError("no C++ compiler\nsecond line")

    monkeypatch.setattr(candidates.torch, "compile", broken)
    table6, settings = run_small(compiled=True)
    row = next(row for row in table6.shapes[0].rows if row["runtime"] == "compiled")
    assert row["p50_ms"] is None and row["failure"] == "torch.compile: no C++ compiler"
    report = build_report(table6, settings, {})
    assert "torch.compile: no C++ compiler" in report.notes
    assert "–" in format_terminal([report])


def test_grid_is_read_or_refused() -> None:
    assert parse_grid("256x768, 64x32,256x768") == ((256, 768), (64, 32))
    assert parse_grid("") == ()
    for text in ("256", "0x3", "axb", "1x2x3"):
        with pytest.raises(UsageError, match="tokens x channels"):
            parse_grid(text)
