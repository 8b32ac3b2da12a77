"""The folder of engines: found, refused, accepted, kept. No TensorRT is needed."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cff_runtime.engines import BuiltEngine, EngineKey, EngineStore, Gpu, static
from cff_runtime.engines import store as store_module
from cff_runtime.engines import validity as validity_module
from cff_runtime.engines.flavours import Flavour
from cff_runtime.engines.record import read_sidecar
from cff_runtime.errors import BackendError, StorageError

GRAPH = "encoder.fp16.onnx"
KEY = EngineKey(
    graph="a" * 64,
    precision="fp16",
    flavour="tensorrt-rtx",
    version="1.7.1",
    compute_capabilities=("8.6", "8.9"),
    gpu="",
    sizes=(("image", static(1)),),
    tf32=False,
)
WANTED = dataclasses.replace(KEY, compute_capabilities=("8.9",))
AddEngine = Callable[..., BuiltEngine]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever box this runs on."""
    for module in ("store", "validity"):
        monkeypatch.setattr(f"cff_runtime.engines.{module}.find_gpu", lambda: None)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def add(store: EngineStore) -> AddEngine:
    """Return ``add(key=KEY, content=b"engine", graph=GRAPH)``, which writes as a build does."""
    count = 0

    def write(key: EngineKey = KEY, content: bytes = b"engine", graph: str = GRAPH) -> BuiltEngine:
        nonlocal count
        count += 1
        path = store.path_for(key, graph)
        path.parent.mkdir(exist_ok=True)
        store.keep_accepted(path)
        path.unlink(missing_ok=True)  # a build gives a new file, it writes into none
        path.write_bytes(content)
        engine = BuiltEngine(
            path=path,
            key=key,
            graph_name=graph,
            graph_bytes=10,
            sha256=hashlib.sha256(content).hexdigest(),
            n_bytes=len(content),
            build_seconds=1.5,
            typing="strong",
            n_by_type={"HALF": 3, "FLOAT": 1},
            n_kept_fp32=1,
            warnings=("slow",),
            notes=(),
            built=f"2026-01-01T00:00:00.{count:06}+00:00",
        )
        engine.layers_path.write_text("{}")
        engine.write_sidecar()
        return engine

    return write


def test_names_say_graph_flavour_and_key(store: EngineStore, add: AddEngine) -> None:
    engine = add()

    assert engine.path.name == f"encoder.fp16.tensorrt-rtx.{KEY.short}.engine"
    assert sorted(path.name for path in store.folder.iterdir()) == [
        engine.path.name,
        f"{engine.path.name}.json",
        f"{engine.path.name}.layers.json",
    ]
    timing = store.timing_cache_path(dataclasses.replace(KEY, flavour="tensorrt", version="10.3"))
    assert timing.name == "timing.tensorrt.10.3.8.6_8.9.cache"


def test_what_was_built_is_found_with_all_its_facts(store: EngineStore, add: AddEngine) -> None:
    engine = add()

    assert store.find(WANTED) == dataclasses.replace(engine, reused=True)


def test_an_empty_or_missing_folder_says_what_to_do(store: EngineStore) -> None:
    with pytest.raises(BackendError, match="no engine was built yet; build one with `cff-run eng"):
        store.find(WANTED, GRAPH)
    assert store.engines() == []
    assert store.accepted(WANTED) is None


def test_one_changed_byte_is_refused(store: EngineStore, add: AddEngine) -> None:
    engine = add(content=b"engine")
    engine.path.write_bytes(b"enginE")

    with pytest.raises(BackendError, match=r"was changed since it was built: its SHA-256"):
        store.find(WANTED, GRAPH)
    assert store.look(WANTED).engine is None


@pytest.mark.parametrize("content", [b"engin", b"engine+", b""])
def test_a_truncated_or_longer_engine_is_refused(
    content: bytes, store: EngineStore, add: AddEngine
) -> None:
    add().path.write_bytes(content)

    with pytest.raises(BackendError, match=f"must have 6 bytes, it has {len(content)}"):
        store.find(WANTED, GRAPH)


def test_a_deleted_engine_is_refused(store: EngineStore, add: AddEngine) -> None:
    add().path.unlink()

    with pytest.raises(BackendError, match="must be readable: No such file"):
        store.find(WANTED, GRAPH)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"graph": "b" * 64}, "was built from another graph"),
        ({"version": "1.8"}, r"by TensorRT-RTX 1\.7\.1, this box has 1\.8"),
        ({"compute_capabilities": ("12.0",)}, r"capability 8\.6, 8\.9, not for 12\.0"),
        ({"sizes": (("image", static(4)),)}, "for 1 rows of `image`, not for 4"),
    ],
)
def test_a_foreign_engine_is_refused_with_the_field_that_differs(
    change: dict[str, Any], sentence: str, store: EngineStore, add: AddEngine
) -> None:
    add()

    with pytest.raises(BackendError, match=f"{sentence}; build one with"):
        store.find(dataclasses.replace(KEY, **change), GRAPH)


def test_engines_of_other_graph_files_are_not_mentioned(store: EngineStore, add: AddEngine) -> None:
    add(graph="scorer_0.fp32.onnx")

    lookup = store.look(dataclasses.replace(KEY, graph="b" * 64), GRAPH)

    assert (lookup.damaged, lookup.foreign) == ((), ())


def test_scorers_of_equal_shape_share_an_engine(store: EngineStore, add: AddEngine) -> None:
    engine = add(graph="scorer_0.fp32.onnx")

    assert store.find(WANTED, "scorer_3.fp32.onnx").path == engine.path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "has no side-car"),
        ("{", "is malformed: it must be JSON"),
        ("[]", "must hold a JSON object"),
        ('{"schema_version": 2}', "`schema_version` must be 1, got 2"),
        ('{"schema_version": 1}', "field `graph` must be present"),
        (" " * (2 << 20), "at most"),
        ("\udcff", "malformed"),
    ],
)
def test_a_missing_or_malformed_sidecar_is_refused(
    text: str | None, reason: str, store: EngineStore, add: AddEngine
) -> None:
    engine = add()
    engine.sidecar_path.unlink()
    if text is not None:
        engine.sidecar_path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(BackendError, match=reason):
        store.find(WANTED, GRAPH)


def test_a_field_of_the_sidecar_of_a_wrong_type_is_named(add: AddEngine) -> None:
    engine = add()
    fields = engine.to_dict()
    fields["engine"]["n_bytes"] = "6"
    engine.sidecar_path.write_text(json.dumps(fields))

    with pytest.raises(BackendError, match="field `n_bytes` must be of type int"):
        read_sidecar(engine.sidecar_path)


def test_the_newest_that_fits_is_found(store: EngineStore, add: AddEngine) -> None:
    add()
    newer = add(WANTED, b"newer")

    assert store.find(WANTED).path == newer.path
    newer.path.write_bytes(b"n")
    assert store.find(WANTED).path != newer.path  # the older one is still intact


def test_acceptance_is_written_with_its_numbers(store: EngineStore, add: AddEngine) -> None:
    engine = add()
    assert store.accepted(WANTED) is None

    store.accept(engine.key, {"passed": True, "score_max_diff": 1e-4})

    accepted = store.accepted(WANTED)
    assert accepted is not None
    assert accepted.accepted is not None
    assert accepted.accepted["parity"] == {"passed": True, "score_max_diff": 1e-4}
    assert store.accepted(dataclasses.replace(WANTED, version="1.8")) is None


def test_only_an_intact_engine_of_the_very_key_can_be_accepted(
    store: EngineStore, add: AddEngine
) -> None:
    engine = add()

    with pytest.raises(BackendError, match="no engine has this key"):
        store.accept(WANTED, {})
    engine.path.write_bytes(b"enginE")
    with pytest.raises(BackendError, match=r"must be intact: .* was changed"):
        store.accept(KEY, {})


def test_a_new_build_does_not_take_the_accepted_engine_away(
    store: EngineStore, add: AddEngine
) -> None:
    first = add(content=b"first")
    store.accept(KEY, {"build": 1})

    second = add(content=b"second")

    assert second.path == first.path
    kept = store.accepted(WANTED)
    assert kept is not None
    assert kept.path.name == f"encoder.fp16.tensorrt-rtx.{KEY.short}.kept.engine"
    assert kept.path.read_bytes() == b"first"
    assert store.find(WANTED).sha256 == second.sha256
    store.accept(KEY, {"build": 2})
    accepted = store.accepted(WANTED)
    assert accepted is not None
    assert accepted.sha256 == second.sha256


def test_an_accepted_engine_that_was_changed_is_accepted_no_more(
    store: EngineStore, add: AddEngine
) -> None:
    add(content=b"first")
    store.accept(KEY, {"build": 1})
    add(content=b"second")
    store.accept(KEY, {"build": 2})
    store.path_for(KEY, GRAPH).write_bytes(b"secomd")

    accepted = store.accepted(WANTED)

    assert accepted is not None
    assert accepted.accepted is not None
    assert accepted.accepted["parity"] == {"build": 1}  # back to the one before


def test_prune_keeps_the_accepted_engine_and_other_graphs(
    store: EngineStore, add: AddEngine
) -> None:
    old = add(dataclasses.replace(KEY, version="1.6"))
    scorer = add(dataclasses.replace(KEY, graph="c" * 64), graph="scorer_0.fp32.onnx")
    engine = add()
    assert store.prune(WANTED) == []  # nothing is accepted
    store.accept(KEY, {})

    assert store.prune(WANTED) == [old.path]

    left = {path.name for path in store.folder.glob("*.engine")}
    assert left == {engine.path.name, scorer.path.name}
    assert len(list(store.folder.iterdir())) == 6


def test_a_file_system_without_links_gets_a_copy(
    store: EngineStore, add: AddEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object) -> None:
        raise OSError("Operation not permitted")

    add(content=b"first")
    store.accept(KEY, {})
    monkeypatch.setattr(os, "link", refuse)
    add(content=b"second")

    kept = store.accepted(WANTED)
    assert kept is not None
    assert kept.path.read_bytes() == b"first"


def test_a_full_disk_is_an_error_of_ours(
    store: EngineStore, add: AddEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_paths: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    add()
    store.accept(KEY, {})
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("shutil.copyfile", refuse)

    with pytest.raises(StorageError, match="No space left"):
        store.keep_accepted(store.path_for(KEY, GRAPH))


class FakeRuntime:
    """As `tensorrt_rtx.Runtime` on a box with a GPU."""

    engine_header_size = 3
    headers: list[bytes] = []  # noqa: RUF012 - of all instances
    verdict: tuple[str, int] = ("VALID", 0)

    def __init__(self, _logger: object) -> None:
        pass

    def get_engine_validity(self, header: bytes) -> tuple[str, int]:
        self.headers.append(header)
        return self.verdict


def test_on_a_gpu_tensorrt_itself_is_asked(
    store: EngineStore, add: AddEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = ModuleType("tensorrt_rtx")
    severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
    diagnostics = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
    vars(trt).update(
        ILogger=type("ILogger", (), {"Severity": severity}),
        Runtime=FakeRuntime,
        EngineValidity=SimpleNamespace(INVALID="INVALID"),
        EngineInvalidityDiagnostics=SimpleNamespace(__members__=diagnostics),
    )
    flavour = Flavour("tensorrt-rtx", trt, "1.7.1")
    monkeypatch.setattr(validity_module, "load_flavour", lambda _name: flavour)
    for module in (validity_module, store_module):
        monkeypatch.setattr(module, "find_gpu", lambda: Gpu("RTX 4090", "8.9"))
    engine = add()

    assert store.find(WANTED).path == engine.path
    assert FakeRuntime.headers == [b"eng"]
    monkeypatch.setattr(FakeRuntime, "verdict", ("INVALID", 6))
    with pytest.raises(BackendError, match="unsupported cc, old cuda driver"):
        store.find(WANTED)
    # built here for another GPU: TensorRT would call it invalid, and it is what was asked for
    other = add(dataclasses.replace(KEY, compute_capabilities=("12.0",)))
    assert store.find(other.key).path == other.path


def test_an_engine_for_another_gpu_is_refused(
    store: EngineStore, add: AddEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "find_gpu", lambda: Gpu("RTX 4090", "8.9"))
    add(dataclasses.replace(KEY, compute_capabilities=("8.6",)))

    with pytest.raises(BackendError, match=r"built for compute capability 8\.6, this GPU has 8\.9"):
        store.find(WANTED, GRAPH)
