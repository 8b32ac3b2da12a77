"""Table 6 of the CFF paper (Sensors 2026, 26(7), 2164), and the ratios that are looked at.

The paper's parameters are in units of 2^20 and its FLOPs are multiply-accumulates; its throughput
is 1000 / ms, its memory the input image and the stages' outputs in fp32.
"""

PAPER = {
    head: dict(
        zip(("inference_ms", "throughput", "memory_gb", "params_m", "flops_g"), row, strict=True)
    )
    for head, row in {
        "none": (41.6, 24.05, 0.0187, 2.25, 3.230),
        "linear": (69.6, 14.36, 0.0187, 4.51, 6.460),
        "mlp": (133.8, 7.48, 0.0187, 11.27, 16.183),
    }.items()
}

# row, row it is divided by, what the project holds the ratio of medians to
RATIOS: tuple[tuple[str, str, float | None], ...] = (
    ("linear unfolded pytorch", "none unfolded pytorch", None),
    ("mlp unfolded pytorch", "none unfolded pytorch", None),
    ("linear unfolded compiled", "none unfolded compiled", None),
    ("mlp unfolded compiled", "none unfolded compiled", None),
    ("linear unfolded onnxruntime", "none folded onnxruntime", None),
    ("mlp unfolded onnxruntime", "none folded onnxruntime", None),
    ("linear folded onnxruntime", "none folded onnxruntime", 1.05),
    ("mlp folded onnxruntime", "none folded onnxruntime", None),
    ("mlp folded onnxruntime", "mlp unfolded onnxruntime", 0.85),
    ("mlp folded onnxruntime", "mlp unfolded pytorch", 0.85),
)
