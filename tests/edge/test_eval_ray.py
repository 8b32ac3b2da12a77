"""Cells on a local cluster of two workers, against the same cells in one process."""

import dataclasses
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from cff_edge.evaluation import ray_executor as ray_executor_module
from cff_edge.evaluation.cells import Cell, CellResult, load_results
from cff_edge.evaluation.cli import main
from cff_edge.evaluation.context import Context, choose_references, read_datasets
from cff_edge.evaluation.methods import MethodSpec, open_method, parse_method
from cff_edge.evaluation.ray_executor import _Queue, _shared_tensors, ray_executor
from cff_edge.evaluation.runner import collect, plan, run_all
from cff_runtime import Bundle
from cff_runtime.errors import BackendError, CffError, UsageError

SECONDS = 60.0
RAW = ("backbone.image_size=96", "train.device=cpu")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A Ray cluster of two CPUs, which the executor finds and leaves running."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 << 20,
    )
    yield
    ray.shutdown()


def _context(root: Path, out: Path, *methods: MethodSpec, n_seeds: int = 2) -> Context:
    datasets = read_datasets([root])
    references, seeds = choose_references(datasets, (1, 2), n_seeds, None, None)
    return Context(
        methods=methods,
        datasets=datasets,
        references=references,
        shots=(1, 2),
        seeds=seeds,
        image_score="deployable",
        out=out,
        cache=out / "cache",
        command=("cff-eval", "--some", "flags"),
    )


@pytest.fixture(scope="module")
def methods(lite_run: Path, lite_bundle: Bundle) -> tuple[MethodSpec, ...]:
    """A run, raw features and a bundle."""
    return (
        parse_method(f"run={lite_run}", ["train.device=cpu"]),
        parse_method("raw=raw", RAW),
        parse_method(f"bundle={lite_bundle.path}"),
    )


def _comparable(result: CellResult) -> dict[str, Any]:
    fields = result.to_dict()
    del fields["seconds"]
    return fields


def _check_alike(a: Path, b: Path) -> None:
    """Both folders hold the same cells, files and pictures, seconds apart."""
    ours, theirs = load_results(a), load_results(b)
    assert [result.cell for result in ours] == [result.cell for result in theirs]
    for one, other in zip(ours, theirs, strict=True):
        # through JSON, which writes every float in full
        assert json.dumps(_comparable(one)) == json.dumps(_comparable(other))
        assert np.array_equal(one.positive, other.positive)
        assert np.array_equal(one.negative, other.negative)
    pictures = sorted(path.relative_to(a) for path in a.glob("pictures/**/*.png"))
    assert pictures == sorted(path.relative_to(b) for path in b.glob("pictures/**/*.png"))
    assert pictures
    for path in pictures:
        assert (a / path).read_bytes() == (b / path).read_bytes()


@pytest.fixture(scope="module")
def serial(
    tiny_dataset: Path, methods: tuple[MethodSpec, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """All cells, computed in this process."""
    context = _context(tiny_dataset, tmp_path_factory.mktemp("serial"), *methods)
    run_all(context, plan(context))
    return context.out


def test_results_are_those_of_one_process_to_the_last_digit(
    two_workers: None,
    tiny_dataset: Path,
    methods: tuple[MethodSpec, ...],
    serial: Path,
    tmp_path: Path,
) -> None:
    context = _context(tiny_dataset, tmp_path, *methods)
    cells = plan(context)
    seen: list[Cell] = []

    run_all(context, cells, lambda result: seen.append(result.cell), ray_executor("local"))

    assert len(cells) == 24  # three methods, two products, K = 1 and 2, two seeds
    assert sorted(seen) == sorted(cells)
    _check_alike(tmp_path, serial)
    assert plan(context) == []


def _ray_tasks() -> list[int]:
    """Return the workers that compute a cell now and descend from this process."""

    def parent(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_worker = entry.name.isdecimal() and b"ray::_compute" in (
                (entry / "cmdline").read_bytes()
            )
            pid = int(entry.name) if is_worker else 0
            while pid not in (0, 1, os.getpid()):
                pid = parent(pid)
        except OSError:  # gone meanwhile
            continue
        if pid == os.getpid():
            found.append(int(entry.name))
    return found


def test_a_killed_worker_loses_nothing(
    two_workers: None,
    tiny_dataset: Path,
    methods: tuple[MethodSpec, ...],
    serial: Path,
    tmp_path: Path,
) -> None:
    context = _context(tiny_dataset, tmp_path, *methods)
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            n_saved = len(list(tmp_path.glob("cells/**/*.json")))
            if n_saved >= 3 and (workers := _ray_tasks()):
                os.kill(workers[0], signal.SIGKILL)
                killed.append(n_saved)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    run_all(context, plan(context), execute=ray_executor("local", 2))
    killer.join()

    assert len(killed) == 1 and 3 <= killed[0] < 24
    _check_alike(tmp_path, serial)
    assert len(collect(context)) == 24


def test_weights_are_mapped_and_not_copied(
    two_workers: None, methods: tuple[MethodSpec, ...], tmp_path: Path
) -> None:
    method: Any = open_method(methods[0], tmp_path)
    state = method._backbone.module.state_dict()
    name = max(state, key=lambda name: state[name].numel())

    @ray.remote
    def look(method: Any) -> tuple[bool, float, str]:
        tensor = method._backbone.module.state_dict()[name]
        address = tensor.data_ptr()
        for line in Path("/proc/self/maps").read_text().splitlines():
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= address < end:
                return method._head.training, float(tensor.double().sum()), line
        raise AssertionError("no mapping holds the tensor")

    with _shared_tensors():
        shared = ray.put(method)
    training, total, line = ray.get(look.remote(shared))

    assert not training
    assert total == float(state[name].double().sum())
    assert "/plasma" in line and line.split()[1].endswith("s")  # shared memory of the store
    assert isinstance(ray.get(ray.put(torch.ones(2))), torch.Tensor)  # PyTorch's own way is back


def test_relative_folders_mean_the_same_to_a_worker(
    two_workers: None, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_dataset.parent)
    context = _context(Path(tiny_dataset.name), tmp_path, parse_method("raw=raw", RAW), n_seeds=1)
    run_all(context, plan(context)[:1], execute=ray_executor("local", 1))
    assert len(load_results(tmp_path)) == 1


def test_what_a_cell_raises_reaches_the_caller_and_saved_cells_stay(
    two_workers: None, tiny_dataset: Path, tmp_path: Path
) -> None:
    method = parse_method("raw=raw", RAW)
    context = _context(tiny_dataset, tmp_path, method)
    cells = plan(context)
    wrong = dataclasses.replace(cells[2], seed=99)  # nobody drew references for it
    with pytest.raises(CffError) as caught:
        run_all(context, [*cells[:2], wrong], execute=ray_executor("local", 2))
    assert "Traceback" not in str(caught.value)
    assert len(load_results(tmp_path)) == 2


def test_too_many_workers_are_refused(
    two_workers: None, tiny_dataset: Path, tmp_path: Path
) -> None:
    context = _context(tiny_dataset, tmp_path, parse_method("raw=raw", RAW))
    for n_workers in (0, 3):
        words = f"must be 1 to the cluster's 2 CPUs, got {n_workers}"
        with pytest.raises(UsageError, match=words):
            run_all(context, plan(context), execute=ray_executor("local", n_workers))


def test_a_cell_that_kills_its_workers_is_named(
    two_workers: None, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ray_executor_module, "MAX_RETRIES", 1)
    monkeypatch.setattr(ray_executor_module, "_compute", die)
    context = _context(tiny_dataset, tmp_path, parse_method("raw=raw", RAW))
    with pytest.raises(BackendError, match=r"raw .* K=1 seed=0: Ray must keep its workers alive"):
        run_all(context, plan(context)[:1], execute=ray_executor("local", 2))


# ---- the command


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_the_command_computes_the_same_tables(
    two_workers: None, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--data", tiny_dataset, "--method", "raw=raw", "--shots", "1", "--seeds", 2)
    common += tuple(itertools.chain.from_iterable(("--set", value) for value in RAW))
    code, here, _ = _run(capsys, *common, "--out", tmp_path / "here")
    assert code == 0
    ray_flags = ("--ray", "local", "--workers", 2)
    code, there, _ = _run(capsys, *common, "--out", tmp_path / "there", *ray_flags)
    assert (code, there.replace("/there/", "/here/")) == (0, here)
    assert len(load_results(tmp_path / "there")) == 4


def test_workers_go_with_ray(
    tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", tiny_dataset, "--method", "raw=raw", "--out", tmp_path, "--workers", 2)
    code, _, errors = _run(capsys, *flags)
    assert code == 2
    assert "`--workers` must go with `--ray`" in errors


def test_a_machine_without_ray_is_told_what_to_install(
    tiny_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    import cff_edge.evaluation

    monkeypatch.delitem(sys.modules, "cff_edge.evaluation.ray_executor")
    monkeypatch.delattr(cff_edge.evaluation, "ray_executor")
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = ("--data", tiny_dataset, "--method", "raw=raw", "--out", tmp_path, "--ray", "local")
    code, _, errors = _run(capsys, *flags)
    assert code == 1
    assert "install cff-edge[ray] with pip" in errors


# ---- the order of cells


def _cells() -> list[Cell]:
    return [
        Cell(method, "data", product, k, seed)
        for method in ("a", "b")
        for product in ("p", "q")
        for seed in (0, 1)
        for k in (1, 2)
    ]


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_first_cells_run_alone_on_their_product_and_before_the_others(n_workers: int) -> None:
    cells = _cells()
    queue, rng = _Queue(cells), random.Random(n_workers)
    firsts = {(c.method, c.product): c for c in reversed(cells)}
    running: list[Cell] = []
    done: list[Cell] = []
    while len(done) < len(cells):
        while len(running) < n_workers and (cell := queue.take()) is not None:
            running.append(cell)
            first = firsts[cell.method, cell.product]
            assert cell == first or first in done
            fillers = [c for c in running if c in firsts.values() and c.product == cell.product]
            assert len(fillers) <= 1
        assert running  # something can always run
        done.append(running.pop(rng.randrange(len(running))))
        queue.finish(done[-1])
    assert queue.take() is None
    assert sorted(done) == sorted(cells)
    if n_workers == 1:
        assert done == cells  # the order of a single process


def test_two_products_are_worked_on_at_once() -> None:
    queue = _Queue(_cells())
    first, second = queue.take(), queue.take()
    assert first is not None and second is not None
    assert (first.method, first.product, second.method, second.product) == ("a", "p", "a", "q")
    assert queue.take() is None  # the rest waits for a product's first cell
