"""Computing cells as Ray tasks, on the cores of this machine or on a cluster.

Methods travel once: their weights lie in Ray's object store as arrays, and every worker of a
machine computes on the same pages of memory. Results come back to the driver, which saves them one
by one, so that a worker that dies costs the cell it had before it; Ray computes that one again.

A product's first cell fills the feature cache. The product's other cells wait for it: two workers
would otherwise encode the same images at once, and in other batches than one process does.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.exceptions
import ray.util
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cff_edge.evaluation.cells import Cell, CellResult
from cff_edge.evaluation.context import Context
from cff_edge.evaluation.methods import Method, open_method
from cff_edge.evaluation.runner import Executor, run_cell
from cff_runtime.errors import BackendError, CffError, UsageError
from cff_runtime.ray_cluster import join_cluster

MAX_RETRIES = 3  # of one cell whose worker died
_SHARED_KINDS = ("run", "raw")  # PyTorch; the others open their files, which the system shares


def ray_executor(address: str, n_workers: int | None = None) -> Executor:
    """Return what computes cells on a Ray cluster, in any order.

    The data sets, methods, results and the feature cache must have the same paths on every
    machine, and this process's working folder must be there. The CPUs are shared out equally, and
    so are the GPUs. With as many threads, every figure is the one that a single process computes.

    Parameters
    ----------
    address : str
        ``local`` starts a cluster, ``auto`` finds one of this machine, HOST:PORT names one.
    n_workers : int, optional
        Cells at a time; one per GPU, or per CPU without any, if None. Each takes the memory of
        one evaluation, up to some GiB.

    Raises
    ------
    UsageError
        If there are more workers than CPUs.
    BackendError
        If the cluster cannot be reached, or a cell's workers die again and again.
    CffError
        What a cell raises.
    """

    def execute(context: Context, cells: Sequence[Cell]) -> Iterator[CellResult]:
        n_cores = len(os.sched_getaffinity(0))
        with join_cluster(address, n_cores) as resources, _shared_tensors():
            shares = _shares(resources, n_workers)
            yield from _compute_all(context, cells, *shares)

    return execute


def _shares(resources: Mapping[str, float], n_workers: int | None) -> tuple[int, int, float]:
    """Return the number of workers, and the CPUs and GPUs of each."""
    n_cpus, n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if n_workers is None:
        n_workers = n_gpus or n_cpus
    if not 1 <= n_workers <= n_cpus:
        raise UsageError(f"`--workers` must be 1 to the cluster's {n_cpus} CPUs, got {n_workers}")
    return n_workers, n_cpus // n_workers, min(1.0, n_gpus / n_workers)


def _compute_all(
    context: Context, cells: Sequence[Cell], n_workers: int, n_cpus: int, n_gpus: float
) -> Iterator[CellResult]:
    methods = {
        spec.name: ray.put(open_method(spec, context.cache))
        for spec in context.methods
        if spec.kind in _SHARED_KINDS
    }
    task = ray.remote(num_cpus=n_cpus, num_gpus=n_gpus, max_retries=MAX_RETRIES)(_compute)
    shared_context, folder = ray.put(context), Path.cwd()
    queue = _Queue(cells)
    running: dict[Any, Cell] = {}
    failure: CffError | None = None
    while True:
        while failure is None and len(running) < n_workers and (cell := queue.take()) is not None:
            # in a list, so that Ray hands over the reference and a worker loads the method once
            method = [methods[cell.method]] if cell.method in methods else []
            running[task.remote(shared_context, cell, method, folder, n_cpus)] = cell
        if not running:
            break
        (done,), _ = ray.wait(list(running))
        cell = running.pop(done)
        try:
            result = _result(done, cell)
        except CffError as error:  # told when the cells beside it are saved
            failure = failure or error
            continue
        yield result
        queue.finish(cell)
    if failure is not None:
        raise failure


class _Queue:
    """Cells that wait, and those taken.

    A method's first cell of a product fills the cache; it runs beside no other such cell of the
    product, and before all other cells of this method and product.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._waiting = list(cells)
        self._filling: set[tuple[str, str]] = set()
        self._filled: set[tuple[str, str, str]] = set()

    def take(self) -> Cell | None:
        """Return the first cell that may run now, None if there is none."""
        for cell in self._waiting:
            is_filled = (cell.method, cell.dataset, cell.product) in self._filled
            if is_filled or (cell.dataset, cell.product) not in self._filling:
                self._waiting.remove(cell)
                if not is_filled:
                    self._filling.add((cell.dataset, cell.product))
                return cell
        return None

    def finish(self, cell: Cell) -> None:
        """Say that a cell is computed."""
        key = (cell.method, cell.dataset, cell.product)
        if key not in self._filled:
            self._filled.add(key)
            self._filling.discard((cell.dataset, cell.product))


def _result(reference: Any, cell: Cell) -> CellResult:
    try:
        result: CellResult = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CffError):
            raise error.cause from error
        reason = str(error).strip().splitlines()[-1]
        raise CffError(f"{cell} failed: {reason}; finished cells are kept") from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise BackendError(
            f"{cell}: Ray must keep its workers alive: {reason}; finished cells are kept, run the "
            "same command with fewer `--workers`"
        ) from error
    return result


def _compute(
    context: Context, cell: Cell, method: Sequence[Any], folder: Path, n_threads: int
) -> CellResult:
    """Compute a cell in a worker; relative paths mean what they mean to the driver."""
    os.chdir(folder)
    torch.set_num_threads(n_threads)
    return run_cell(context, cell, _load_method(method[0]) if method else None)


@functools.lru_cache(maxsize=8)
def _load_method(reference: Any) -> Method:
    method: Method = ray.get(reference)
    return method


@contextlib.contextmanager
def _shared_tensors() -> Iterator[None]:
    """Let Ray keep tensors as arrays, which it maps instead of copying; PyTorch's own way copies.

    What is mapped is read-only: weights of a model in eval mode.
    """
    kinds: tuple[type[Tensor], ...] = (Tensor, nn.Parameter)
    restore = {Tensor: _to_tensor, nn.Parameter: _to_parameter}
    for kind in kinds:
        ray.util.register_serializer(kind, serializer=_to_array, deserializer=restore[kind])
    try:
        yield
    finally:
        for kind in kinds:
            ray.util.deregister_serializer(kind)


def _to_array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().contiguous().numpy()


def _to_tensor(array: NDArray[Any]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def _to_parameter(array: NDArray[Any]) -> nn.Parameter:
    return nn.Parameter(_to_tensor(array), requires_grad=False)
