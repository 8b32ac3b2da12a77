"""Ceilings, profiles and the report, on hand-written profiles and a tiny machine of numbers."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cff_bench.report.document import Report
from cff_bench.roofline.bandwidth import Transfer, array_sizes, build_transfers
from cff_bench.roofline.ceilings import Ceilings, find_ceilings
from cff_bench.roofline.command import add_roofline_parser
from cff_bench.roofline.counting import NodeCount, count_model
from cff_bench.roofline.gemm import Gemm, build_gemms, product_model
from cff_bench.roofline.measurement import Graph, Measured, RooflineSettings, thread_counts
from cff_bench.roofline.profiling import NodeTime, aggregate, node_events, profile_graph
from cff_bench.roofline.report import build_report
from cff_bench.roofline.tables import memory_bound_share, operator_rows
from cff_bench.timing import Samples
from cff_runtime import Bundle
from cff_runtime.errors import BackendError, UsageError

CEILINGS = Ceilings(
    threads=2,
    gflops={"fp32": 400.0, "int8": 1200.0},
    fastest={"fp32": "gemm/fp32/onnxruntime/2/8x8x8"},
    gbps={"L2": 200.0, "memory": 20.0},
    level_bytes={"L2": 1 << 20},
)


def node(
    name: str, operator: str, us: float, flops: int, moved: int, kind: str = "fp32"
) -> NodeTime:
    return NodeTime(name, operator, 3, us, flops, moved, kind, "")


def samples(*values_ms: float) -> Samples:
    return Samples(list(values_ms), 0, None)


def test_a_node_is_bound_by_the_slower_of_operations_and_bytes() -> None:
    product = node("a", "MatMul", 100.0, 8_000_000, 40_000)
    assert CEILINGS.compute_us(product) == pytest.approx(20.0)
    assert CEILINGS.memory_us(product) == pytest.approx(0.2)  # from L2
    assert CEILINGS.bound_us(product) == pytest.approx(20.0)
    assert not CEILINGS.is_memory_bound(product)
    softmax = node("b", "Softmax", 300.0, 0, 4_000_000)
    assert CEILINGS.bound_us(softmax) == pytest.approx(200.0)  # beyond it
    assert CEILINGS.is_memory_bound(softmax)
    rounded = node("c", "DynamicQuantizeMatMul", 100.0, 12_000_000, 100, "int8")
    assert CEILINGS.bound_us(rounded) == pytest.approx(10.0)


def test_shares_of_time_by_operator() -> None:
    nodes = [
        node("a", "MatMul", 100.0, 8_000_000, 40_000),
        node("b", "Softmax", 300.0, 0, 4_000_000),
        node("c", "MatMul", 200.0, 4_000, 2_000_000),
    ]
    assert memory_bound_share(nodes, CEILINGS) == pytest.approx(500 / 600)
    rows = {row["operator"]: row for row in operator_rows(nodes, CEILINGS)}
    assert rows["MatMul"]["us"] == 300.0
    assert rows["MatMul"]["gflops"] == pytest.approx(8_004_000 / 300 / 1e3)
    assert rows["MatMul"]["bound_share"] == pytest.approx((20 + 100) / 300)
    assert rows["Softmax"]["gflop"] is None
    assert memory_bound_share([], CEILINGS) == 0.0


def test_ceilings_are_the_largest_rates_of_medians() -> None:
    def gemm(library: str, precision: str) -> Gemm:
        return Gemm(library, precision, 4, (10, 100, 1000), lambda: None)

    gemms = [gemm("numpy", "fp32"), gemm("torch", "fp32"), gemm("onnxruntime", "int8")]
    copies = [Transfer(kind, "memory", 4, 6_000_000, lambda: None) for kind in ("copy", "triad")]
    taken = {
        gemms[0].name: samples(0.01, 0.02, 0.09),
        gemms[1].name: samples(0.001, 0.04, 0.04),
        gemms[2].name: samples(0.005),
        copies[0].name: samples(0.5),
        copies[1].name: samples(0.3),
    }
    found = find_ceilings(4, gemms, copies, taken, {"L2": (1000, 1), "L3": (8000, 4)})
    assert found.gflops["fp32"] == pytest.approx(2e6 / 0.02 / 1e6)
    assert found.fastest["fp32"] == "gemm/fp32/numpy/4/10x100x1000"
    assert found.gflops["int8"] == pytest.approx(400.0)
    assert found.gbps == {"memory": pytest.approx(20.0)}
    assert found.level_bytes == {"L2": 4000, "L3": 8000}  # a core's own; one for all


def test_every_way_to_multiply_gives_the_product() -> None:
    gemms = build_gemms(1, ((5, 7, 3),))
    assert {(g.library, g.precision) for g in gemms} >= {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("torch", "fp32"),
    }
    results = [
        np.asarray(g.run()[0] if g.library == "onnxruntime" else g.run())  # type: ignore[index]
        for g in gemms
        if g.precision == "fp32"
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)
    assert gemms[0].flops == 2 * 5 * 7 * 3


def test_int8_product_is_within_its_rounding() -> None:
    generator = np.random.default_rng(0)
    left = generator.standard_normal((6, 64)).astype(np.float32)
    right = generator.standard_normal((64, 5)).astype(np.float32)
    model = product_model(right, "int8").SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"left": left})
    assert np.abs(product - left @ right).max() < 0.5
    (count,) = [c for c in count_model(product_model(right, "int8"), 6) if c.flops]
    assert (count.operator, count.flops) == ("MatMulInteger", 2 * 6 * 64 * 5)


def test_arrays_fit_their_level() -> None:
    caches = {"L2": (1 << 20, 1), "L3": (32 << 20, 8)}
    one, two = array_sizes(1, caches), array_sizes(2, caches)
    assert one["L2"] * 3 < 1 << 20 and two["L2"] == one["L2"]
    assert two["L3"] * 2 * 3 < 32 << 20
    assert two["memory"] * 2 >= 4 * (32 << 20)
    assert list(array_sizes(1, {})) == ["memory"]


def test_transfers_move_what_they_count() -> None:
    transfers = build_transfers(2, {"L2": (1 << 18, 1)})
    assert {(t.kind, t.level) for t in transfers} >= {("copy", "L2"), ("copy", "memory")}
    for transfer in transfers:
        assert transfer.moved_bytes >= 32 << 20
    transfers[0].run()


def event(name: str, operator: str, us: float, shapes: list[list[int]]) -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "dur": us,
        "args": {
            "op_name": operator,
            "input_type_shape": [{"float": shape} for shape in shapes],
            "output_type_shape": [{"float": [1, 10, 4]}],
        },
    }


def counted(name: str, operator: str, flops: int, inputs: list[str], output: str) -> NodeCount:
    return NodeCount(name, operator, flops, 4 * 8 * 4, (8, 4), tuple(inputs), (output,))


def test_fused_and_renamed_nodes_keep_their_exact_counts() -> None:
    counts = [
        counted("trunk/Conv_1", "Conv", 1000, ["x", "w"], "conv"),
        counted("trunk/Clip_2", "Clip", 0, ["conv", "low"], "relu6"),
        counted("head/MatMul_3", "MatMul", 640, ["relu6", "v"], "product"),
        counted("head/MatMulInteger_4", "MatMulInteger", 77, ["q"], "sum"),
        counted("head/MatMul_5", "MatMul", 5, ["a", "b"], "lost"),
    ]
    raw = [
        {"cat": "Session", "name": "model_run", "dur": 1},
        *(event("relu6_nchwc", "Conv", us, [[1, 3, 8, 8], [8, 4]]) for us in (90, 30, 10, 20)),
        *(
            event("head/MatMul_3/MatmulTransposeFusion/", "FusedMatMul", us, [[1, 10, 8]])
            for us in (90, 5, 7, 6)
        ),
        event("head/MatMulInteger_4_quant", "DynamicQuantizeMatMul", 9, [[1, 10, 8]]),
        event("head/MatMulInteger_4_quant", "DynamicQuantizeMatMul", 3, [[1, 10, 8]]),
        event("ReorderOutput", "ReorderOutput", 9, [[1, 10, 4]]),
        event("ReorderOutput", "ReorderOutput", 1, [[1, 10, 4]]),
        event("encoder/Reshape_9", "Reshape", 1, [[1, 10, 4], [2]]),
        event("encoder/Reshape_9", "Reshape", 1, [[1, 10, 4], [2]]),
    ]
    nodes, unmatched = aggregate(node_events(raw, warmup=1), counts)
    by_operator = {node.operator: node for node in nodes}
    conv = by_operator["Conv"]
    assert (conv.n, conv.median_us, conv.flops) == (3, 20.0, 1000)
    assert conv.moved_bytes == 4 * (3 * 64 + 32 + 40)  # its weights are among the inputs
    product = by_operator["FusedMatMul"]
    assert (product.median_us, product.flops) == (6.0, 640)
    assert product.moved_bytes == 4 * (80 + 40) + 4 * 32  # packed weights are not
    assert by_operator["DynamicQuantizeMatMul"].flops == 77
    assert by_operator["DynamicQuantizeMatMul"].precision == "int8"
    assert by_operator["ReorderOutput"].flops == 0
    assert by_operator["ReorderOutput"].moved_bytes == 4 * (40 + 40)
    assert by_operator["Reshape"].moved_bytes == 0  # the same memory
    assert unmatched == 5
    assert [node.median_us for node in nodes] == sorted((n.median_us for n in nodes), reverse=True)


def test_a_real_profile(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones((16, 8), np.float32), "w")
    info = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["p"], "block/MatMul_0"),
                helper.make_node("Erf", ["p"], ["y"], "block/Erf_1"),
            ],
            "g",
            [info("x", TensorProto.FLOAT, [4, 16])],
            [info("y", TensorProto.FLOAT, [4, 8])],
            [tensor],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    events = profile_graph(path, {"x": np.ones((4, 16), np.float32)}, 1, n=3)
    nodes, unmatched = aggregate(events, count_model(model))
    assert unmatched == 0
    assert {(n.name, n.n, n.flops) for n in nodes} == {
        ("block/MatMul_0", 3, 2 * 4 * 16 * 8),
        ("block/Erf_1", 3, 0),
    }
    path.write_bytes(b"no graph")
    with pytest.raises(BackendError, match="cannot profile"):
        profile_graph(path, {}, 1, n=1)


def test_thread_counts_end_at_all() -> None:
    assert [thread_counts(n) for n in (1, 2, 3, 4, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
        [1, 2, 4, 6],
    ]


def measured(bundle: Bundle) -> Measured:
    gemm = Gemm("onnxruntime", "fp32", 2, (8, 8, 8), lambda: None)
    graphs = [
        Graph("encoder/fp32", "fp32", 2, 320_000_000, lambda: None),
        Graph("scorer/0", "fp32", 1, 10_000_000, lambda: None),
    ]
    taken = {
        gemm.name: samples(0.1),
        "memory/copy/memory/2": samples(0.3),
        "encoder/fp32": samples(1.0, 1.0, 1.1),
        "scorer/0": samples(0.1),
    }
    nodes = [
        node("a", "MatMul", 700.0, 320_000_000, 40_000),
        node("b", "Softmax", 300.0, 0, 4_000_000),
    ]
    copy = Transfer("copy", "memory", 2, 6_000_000, lambda: None)
    ceilings = {1: CEILINGS, 2: CEILINGS}
    return Measured(
        bundle.manifest,
        [gemm],
        [copy],
        graphs,
        taken,
        ceilings,
        {"encoder/fp32": nodes},
        {"encoder/fp32": 0},
        {"fp16": "a reason"},
    )


def test_report_states_the_distance(lite_bundle: Bundle) -> None:
    settings = RooflineSettings(lite_bundle.path, threads=2)
    report = build_report(measured(lite_bundle), settings, {})
    report = Report.from_dict(json.loads(json.dumps(report.to_dict())))
    (check,) = report.checks
    assert check.value == pytest.approx(320 / 400)
    assert (check.limit, check.passed) == (0.90, False)
    rows = {row["graph"]: row for row in next(t for t in report.tables if t.name == "graphs").rows}
    encoder = rows["encoder fp32"]
    assert encoder["gflops"] == pytest.approx(320.0)
    assert encoder["bound_ms"] == pytest.approx(0.8 + 0.2)
    assert encoder["memory_bound"] == pytest.approx(0.3)
    assert rows["scorer 0"]["share"] == pytest.approx(0.25)
    assert rows["scorer 0"]["bound_ms"] is None
    assert "fp16 is not run: a reason." in report.notes
    assert {series.name for series in report.series} >= {"roofline/encoder/fp32"}


def test_command_refuses_counts_out_of_range(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_roofline_parser(parser.add_subparsers())
    args = parser.parse_args(["roofline", str(tmp_path), "-n", "0"])
    args.command_line = ("cff-bench", "roofline")
    with pytest.raises(UsageError, match="`n` must be at least 1"):
        args.run(args)
