import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from cff_bench import table6
from cff_bench.folded_heads import FoldedHead, HeadShape, count_cost, head_to_onnx
from cff_bench.table6 import (
    CALIBRATORS,
    PAPER,
    PAPER_SHAPE,
    Candidate,
    Table6Settings,
    build_candidates,
    build_head,
    check_parity,
    format_table6,
    row_name,
    run_table6,
)
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


def test_every_candidate_gives_the_same_result() -> None:
    settings = Table6Settings(n=1, warmup=0, threads=1, shape=SMALL)
    differences = check_parity(build_candidates(settings))
    assert len(differences) == 8
    assert max(differences.values()) <= 1e-5


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_wrong_result_is_not_timed(wrong: float) -> None:
    right, other = [np.zeros((4, 2))], [np.full((4, 2), wrong)]
    candidates = [
        Candidate("mlp", False, "pytorch", nn.Identity(), lambda: right),
        Candidate("mlp", True, "onnxruntime", nn.Identity(), lambda: other),
    ]
    with pytest.raises(ParityError, match="mlp folded onnxruntime"):
        check_parity(candidates)


def test_report_has_every_row_and_ratio() -> None:
    n_threads = torch.get_num_threads()
    settings = Table6Settings(n=2, warmup=1, threads=1, pause_ms=0.0, shape=SMALL)
    report = json.loads(json.dumps(run_table6(settings)))
    assert torch.get_num_threads() == n_threads
    names = [row_name(row["head"], row["folded"], row["runtime"]) for row in report["rows"]]
    assert names == [
        "none unfolded pytorch",
        "none folded onnxruntime",
        "linear unfolded pytorch",
        "linear unfolded onnxruntime",
        "linear folded onnxruntime",
        "mlp unfolded pytorch",
        "mlp unfolded onnxruntime",
        "mlp folded onnxruntime",
    ]
    for row in report["rows"]:
        assert row["n"] == 2
        assert row["throughput"] == pytest.approx(1000 / row["p50_ms"])
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["max_abs_diff"] <= 1e-4
        assert row["paper"] == PAPER[row["head"]]
    assert report["settings"]["threads"] == 1
    assert report["environment"]["packages"]["torch"]


def test_ratios_are_of_medians_beside_the_papers() -> None:
    settings = Table6Settings(n=2, warmup=0, threads=1, pause_ms=0.0, shape=SMALL)
    report = run_table6(settings)
    ratios = {ratio["name"]: ratio for ratio in report["ratios"]}
    folded = ratios["linear folded onnxruntime / none folded onnxruntime"]
    p50 = {row_name(r["head"], r["folded"], r["runtime"]): r["p50_ms"] for r in report["rows"]}
    assert folded["p50"] == pytest.approx(
        p50["linear folded onnxruntime"] / p50["none folded onnxruntime"]
    )
    assert folded["macs"] == 1.0
    assert round(folded["paper"], 2) == 1.67
    assert folded["limit"] == 1.05
    for base in ("mlp unfolded onnxruntime", "mlp unfolded pytorch"):
        assert ratios[f"mlp folded onnxruntime / {base}"]["paper"] is None
    text = format_table6(report)
    assert "133.8" in text and "16.183" in text and "1.67" in text
    assert len(text.splitlines()) == 5 + 8 + 1 + 1 + len(table6.RATIOS)
