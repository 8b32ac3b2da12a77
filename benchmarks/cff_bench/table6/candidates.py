"""Every row's head in its runtime: PyTorch as trained, ONNX Runtime unfolded and folded.

What makes the comparison fair:

- One ONNX graph per head with the four stages in it: a Gemm per linear layer (MatMul and Add
  become the same node inside ONNX Runtime and measured the same), BatchNormalization and Relu as
  nodes of their own where the head is not folded (a Mul and an Add measured the same as the
  BatchNormalization). Tokens are rows, without the batch axis that PyTorch's heads carry.
- The same number of threads. ONNX Runtime's threads spin after a run and PyTorch's after an
  operator; on cores that the next candidate needs, this doubled its time. So the sessions stop
  spinning when a run ends, and a pause outside the timing lets the others fall asleep.
- Every result is compared with eager PyTorch's before anything is timed.

Rows of a GPU stand in the table only where one is found; they have not run on the machines of this
project. There, inputs and outputs stay on the device and a run ends with the device idle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_bench.environment import available_cores
from cff_bench.table6.heads import FoldedHead, HeadShape, head_to_onnx
from cff_edge.heads import Head
from cff_runtime.backends.cpu_session import CpuSession
from cff_runtime.errors import ParityError

MAX_ABS_DIFF = 1e-4
CALIBRATORS = {"none": "none", "linear": "affine", "mlp": "mlp"}
PAPER_SHAPE = HeadShape()
# fp32 as on the CPU: without it CUDA rounds operands to 10 bits of mantissa
_DEVICE_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "onnxruntime cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "onnxruntime tensorrt": ("TensorrtExecutionProvider", {}),
}
COMPILED = "compiled"


@dataclass(frozen=True)
class Table6Settings:
    """What to measure; `pause_ms` stands before every timed call, outside its timing.

    Attributes
    ----------
    n, warmup, threads : int
    pause_ms : float
    seed : int
    shape : HeadShape
        Of the table itself.
    projector_width : int or None
        E of the real backbone, a second table; None leaves it out.
    grid : tuple of HeadShape
        Further shapes, in ONNX Runtime and eager PyTorch with half the rounds.
    compiled : bool
        Whether to try `torch.compile`.
    command : tuple of str
    """

    n: int = 50
    warmup: int = 5
    threads: int = field(default_factory=available_cores)
    pause_ms: float = 20.0
    seed: int = 0
    shape: HeadShape = field(default_factory=lambda: PAPER_SHAPE)
    projector_width: int | None = 1024
    grid: tuple[HeadShape, ...] = ()
    compiled: bool = True
    command: tuple[str, ...] = ("cff-bench", "table6")


@dataclass(frozen=True)
class Candidate:
    """One head in one runtime: `run` returns S arrays or tensors of [N,C] or [1,N,C].

    `failure` is why it does not run here; then there is no `run`.
    """

    head: str
    folded: bool
    runtime: str
    module: nn.Module
    run: Callable[[], Sequence[Any]] | None
    failure: str | None = None

    @property
    def name(self) -> str:
        """Such as ``mlp folded onnxruntime``."""
        return row_name(self.head, self.folded, self.runtime)


def row_name(head: str, folded: bool, runtime: str) -> str:
    """Return the name of a row, as ratios use it."""
    return f"{head} {'folded' if folded else 'unfolded'} {runtime}"


def build_candidates(
    settings: Table6Settings, shape: HeadShape, compiled: bool = False
) -> list[Candidate]:
    """Build every row's head for one shape; eager PyTorch comes first of each head."""
    generator = torch.Generator().manual_seed(settings.seed)
    features = [
        torch.randn(1, shape.n_tokens, width, generator=generator) for width in shape.widths
    ]
    candidates = []
    for name in CALIBRATORS:
        head = build_head(name, shape, generator)
        candidates.append(Candidate(name, False, "pytorch", head, _torch_call(head, features)))
        if compiled:
            candidates.append(_compiled(name, head, features))
        if torch.cuda.is_available():
            candidates.append(_torch_cuda(name, head, features))
        variants: list[tuple[bool, Head | FoldedHead]] = [(True, FoldedHead(head).eval())]
        if name != "none":  # nothing to fold: its unfolded graph is its folded one
            variants.insert(0, (False, head))
        for folded, module in variants:
            model = head_to_onnx(module, shape.n_tokens).SerializeToString()
            call = _onnxruntime_call(model, features, settings.threads)
            candidates.append(Candidate(name, folded, "onnxruntime", module, call))
            for runtime, (provider, options) in _DEVICE_PROVIDERS.items():
                if provider in ort.get_available_providers():
                    bound = _bound_call(model, features, (provider, options))
                    candidates.append(Candidate(name, folded, runtime, module, bound))
    return candidates


def build_head(name: str, shape: HeadShape, generator: torch.Generator) -> Head:
    """Build a head whose weights, biases and BatchNorm statistics are all non-trivial."""
    with torch.random.fork_rng(devices=[]):  # `Head` draws from PyTorch's global generator
        torch.manual_seed(generator.initial_seed())
        head = Head(shape.widths, shape.dim, CALIBRATORS[name], projector_init="default")
    for parameter in head.parameters():
        scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.1
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * scale)
    for key, buffer in head.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0.0, 0.5, generator=generator)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
    return head.eval()


def check_parity(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return every running candidate's largest absolute difference from its head in PyTorch.

    Raises
    ------
    ParityError
        If one is above 1e-4.
    """
    reference: dict[str, NDArray[np.float32]] = {}
    differences = {}
    for candidate in candidates:
        if candidate.run is None:
            continue
        # PyTorch's stages carry a batch axis of 1, the graph's do not
        outputs = np.concatenate([_on_host(output).ravel() for output in candidate.run()])
        expected = reference.setdefault(candidate.head, outputs)  # PyTorch comes first
        difference = float(np.abs(outputs - expected).max())
        if not difference <= MAX_ABS_DIFF:
            raise ParityError(
                f"`{candidate.name}` must equal PyTorch within {MAX_ABS_DIFF}, it differs by "
                f"{difference:.3g}; its latency would mean nothing"
            )
        differences[candidate.name] = difference
    return differences


def _on_host(output: Any) -> NDArray[Any]:
    if isinstance(output, Tensor):
        return output.cpu().numpy()
    return np.asarray(output.numpy() if hasattr(output, "numpy") else output)


def _torch_call(head: Callable[..., Any], features: list[Tensor]) -> Callable[[], Sequence[Any]]:
    def call() -> Sequence[Any]:
        with torch.inference_mode():
            outputs: Sequence[Any] = head(features)
            return outputs

    return call


def _compiled(name: str, head: Head, features: list[Tensor]) -> Candidate:
    """Compile now, so that a machine without a C++ compiler gets a dash and the reason."""
    try:
        call = _torch_call(torch.compile(head), features)
        call()
    except Exception as error:  # the compiler raises many kinds, some of them not public
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return Candidate(name, False, COMPILED, head, None, f"torch.compile: {reason[0][:200]}")
    return Candidate(name, False, COMPILED, head, call)


def _torch_cuda(name: str, head: Head, features: list[Tensor]) -> Candidate:
    import copy

    on_device = copy.deepcopy(head).cuda()
    inner = _torch_call(on_device, [stage.cuda() for stage in features])

    def call() -> Sequence[Any]:
        outputs = inner()
        torch.cuda.synchronize()
        return outputs

    return Candidate(name, False, "pytorch cuda", head, call)


def _onnxruntime_call(
    model: bytes, features: list[Tensor], threads: int
) -> Callable[[], Sequence[Any]]:
    session = CpuSession(model, threads)
    feeds = {f"stage_{stage}": values[0].numpy() for stage, values in enumerate(features)}

    def call() -> Sequence[Any]:
        outputs: Sequence[Any] = session.run(None, feeds)
        return outputs

    return call


def _bound_call(
    model: bytes, features: list[Tensor], provider: tuple[str, dict[str, str]]
) -> Callable[[], Sequence[Any]]:
    session = ort.InferenceSession(model, providers=[provider])
    binding = session.io_binding()
    for stage, values in enumerate(features):
        value = ort.OrtValue.ortvalue_from_numpy(values[0].numpy(), "cuda", 0)
        binding.bind_ortvalue_input(f"stage_{stage}", value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    def call() -> Sequence[Any]:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        outputs: Sequence[Any] = binding.get_outputs()
        return outputs

    return call
