"""How fast this machine multiplies matrices, by library and number of threads.

The ceiling is measured, not read from a data sheet: the fastest of ONNX Runtime, NumPy's BLAS and
PyTorch at a few shapes. int8 is ONNX Runtime's dynamic quantisation of a float32 input, rounding
included, because that is what an int8 bundle runs; its operations are counted as the float32
product's.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cff_runtime.backends.cpu_session import CpuSession

SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1370, 1024, 4096), (1370, 4096, 1024))
PRECISIONS = ("fp32", "int8")
_OPSET, _IR_VERSION = 18, 8


@dataclass(frozen=True)
class Gemm:
    """One way to multiply [m,k] by [k,n].

    Attributes
    ----------
    library, precision : str
    threads : int
    shape : tuple of int
        m, k, n.
    run : callable
        Multiplies once, on operands in memory.
    """

    library: str
    precision: str
    threads: int
    shape: tuple[int, int, int]
    run: Callable[[], object]

    @property
    def name(self) -> str:
        """Stable key, such as ``gemm/fp32/onnxruntime/2/1024x1024x1024``."""
        sizes = "x".join(map(str, self.shape))
        return f"gemm/{self.precision}/{self.library}/{self.threads}/{sizes}"

    @property
    def flops(self) -> int:
        """Operations of the product: a multiply-add is two."""
        m, k, n = self.shape
        return 2 * m * k * n


def build_gemms(
    threads: int, shapes: tuple[tuple[int, int, int], ...] = SHAPES, seed: int = 0
) -> list[Gemm]:
    """Return every way that the installed packages offer.

    NumPy is left out where threadpoolctl cannot hold its BLAS to `threads`.
    """
    generator = np.random.default_rng(seed)
    gemms = []
    for m, k, n in shapes:
        left = generator.standard_normal((m, k), dtype=np.float32)
        right = generator.standard_normal((k, n), dtype=np.float32)
        calls = {("onnxruntime", precision): _onnxruntime_call for precision in PRECISIONS}
        for (library, precision), make in calls.items():
            run = make(left, right, precision, threads)
            gemms.append(Gemm(library, precision, threads, (m, k, n), run))
        if importlib.util.find_spec("threadpoolctl") is not None:
            run = _numpy_call(left, right, threads)
            gemms.append(Gemm("numpy", "fp32", threads, (m, k, n), run))
        if importlib.util.find_spec("torch") is not None:
            run = _torch_call(left, right, threads)
            gemms.append(Gemm("torch", "fp32", threads, (m, k, n), run))
    return gemms


def product_model(right: NDArray[np.float32], precision: str) -> onnx.ModelProto:
    """Return the graph `left` [m,k] times a constant [k,n], in float32 or dynamic int8."""
    k, n = right.shape
    info = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(right, "right")]
    nodes = [helper.make_node("MatMul", ["left", "right"], ["product"])]
    if precision == "int8":
        # one scale per output channel, symmetric: as cff-export quantises weights
        scale = (np.abs(right).max(axis=0) / 127).astype(np.float32)
        rounded = np.clip(np.rint(right / scale), -127, 127).astype(np.int8)
        tensors = [numpy_helper.from_array(rounded, "right")]
        tensors.append(numpy_helper.from_array(scale, "right_scale"))
        tensors.append(numpy_helper.from_array(np.zeros(n, np.int8), "right_zero"))
        operands = ["rounded", "right", "zero", "right_zero"]
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["left"], ["rounded", "scale", "zero"]),
            helper.make_node("MatMulInteger", operands, ["sum"]),
            helper.make_node("Cast", ["sum"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scale", "right_scale"], ["scales"]),
            helper.make_node("Mul", ["real", "scales"], ["product"]),
        ]
    graph = helper.make_graph(
        nodes,
        "product",
        [info("left", TensorProto.FLOAT, ["m", k])],
        [info("product", TensorProto.FLOAT, ["m", n])],
        tensors,
    )
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)


def _onnxruntime_call(
    left: NDArray[np.float32], right: NDArray[np.float32], precision: str, threads: int
) -> Callable[[], object]:
    session = CpuSession(product_model(right, precision).SerializeToString(), threads)
    return lambda: session.run(None, {"left": left})


def _numpy_call(
    left: NDArray[np.float32], right: NDArray[np.float32], threads: int
) -> Callable[[], object]:
    out = np.empty((left.shape[0], right.shape[1]), np.float32)

    def run() -> object:
        with _blas_threads(threads):
            return np.matmul(left, right, out=out)

    return run


@contextlib.contextmanager
def _blas_threads(threads: int) -> Iterator[None]:
    with _thread_pools().limit(limits=threads, user_api="blas"):
        yield


@functools.cache  # looking for the libraries takes longer than a small product
def _thread_pools() -> Any:
    return importlib.import_module("threadpoolctl").ThreadpoolController()


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Hold PyTorch's operators to a number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _torch_call(
    left: NDArray[np.float32], right: NDArray[np.float32], threads: int
) -> Callable[[], object]:
    import torch

    operands = torch.from_numpy(left), torch.from_numpy(right)
    out = torch.empty(left.shape[0], right.shape[1])

    def run() -> object:
        with torch_threads(threads):
            return torch.mm(*operands, out=out)

    return run
