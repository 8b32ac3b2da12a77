"""Which precisions a provider of ONNX Runtime really computes.

fp16 and int8-qdq hold float16 tensors: the CPU provider widens them, takes fp32's time and gives
neither a GPU's speed nor its answers. int8 (dynamic quantisation) has kernels on the CPU alone.
CUDA has no kernels for Q/DQ pairs around convolutions: it undoes the quantisation and computes in
float; the TensorRT providers fuse them.
"""

_TENSORRT = ("tensorrt", "nv-tensorrt-rtx")
_GPUS = ("cuda", *_TENSORRT)
# precision -> (providers that compute it, what another one does)
_COMPUTED = {
    "fp32": (("cpu", *_GPUS), ""),
    "fp16": (_GPUS, "ONNX Runtime computes fp16 in fp32 there: no faster, and not a GPU's answers"),
    "int8": (("cpu",), "dynamic int8 has kernels on the CPU only"),
    "int8-qdq": (
        _TENSORRT,
        "ONNX Runtime undoes the quantisation there and computes in float: not faster",
    ),
}


def refusal(precision: str, provider: str) -> str:
    """Return why a provider does not compute a precision; empty if it does."""
    if precision not in _COMPUTED:
        return "this version does not know it"
    providers, reason = _COMPUTED[precision]
    return "" if provider in providers else reason
