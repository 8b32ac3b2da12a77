"""A folder of engines: finding the right one, checking it before it is loaded, accepting it.

    engines/<graph>.<flavour>.<key>.engine                what TensorRT built
    engines/<graph>.<flavour>.<key>.engine.json           side-car, see `cff_runtime.engines.record`
    engines/<graph>.<flavour>.<key>.engine.layers.json    precision per layer
    engines/<graph>.<flavour>.<key>.kept.engine           accepted, and built again since
    engines/timing.<flavour>.<version>.<gpu>.cache        makes the next build quicker (`tensorrt`)

Two builds of one graph can differ, so an engine is *accepted* only when the parity gate passed with
it on its own GPU. A new build never takes an accepted engine away.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cff_runtime.engines.gpu import find_gpu
from cff_runtime.engines.key import EngineKey
from cff_runtime.engines.record import ENGINE_SUFFIX, SIDECAR_SUFFIX, BuiltEngine, read_sidecar
from cff_runtime.engines.validity import invalidity
from cff_runtime.errors import BackendError, StorageError
from cff_runtime.storage import sha256_file
from cff_runtime.trust.ownership import foreign_writer

_KEPT = ".kept"


@dataclass(frozen=True)
class Lookup:
    """What a store has for a key.

    Attributes
    ----------
    engine : BuiltEngine or None
        The newest that fits and is intact.
    damaged : tuple of str
        Why others that fit are refused.
    foreign : tuple of str
        Why other engines of the same graph file do not fit, or cannot be judged.
    """

    engine: BuiltEngine | None
    damaged: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why there is no engine, in one sentence."""
        return next(iter((*self.damaged, *self.foreign)), "no engine was built yet")


class EngineStore:
    """The engines in `folder`, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path_for(self, key: EngineKey, graph_name: str) -> Path:
        """Return where an engine of that key and graph file is written."""
        stem = Path(graph_name).stem
        return self.folder / f"{stem}.{key.flavour}.{key.short}{ENGINE_SUFFIX}"

    def timing_cache_path(self, key: EngineKey) -> Path:
        """Return where the timing cache for engines of that key is kept."""
        gpu = "_".join(key.compute_capabilities)
        return self.folder / f"timing.{key.flavour}.{key.version}.{gpu}.cache"

    def engines(self) -> list[BuiltEngine]:
        """Return the engines whose side-car is well-formed, newest first."""
        found = []
        for path in self.folder.glob(f"*{SIDECAR_SUFFIX}"):
            with contextlib.suppress(BackendError):
                found.append(read_sidecar(path))
        return sorted(found, key=lambda engine: (engine.built, engine.path.name), reverse=True)

    def look(self, wanted: EngineKey, graph_name: str = "") -> Lookup:
        """Search for an engine; with `graph_name` the answer also tells of foreign ones.

        An engine fits if its key is the wanted one, or has more compute capabilities.
        """
        gpu = find_gpu()
        damaged: list[str] = []
        foreign = self._unreadable(wanted, graph_name) if graph_name else []
        for engine in self.engines():
            difference = engine.key.difference(wanted, gpu)
            if difference is None:
                reason = self.damage(engine)
                if reason is None:
                    return Lookup(engine, tuple(damaged), tuple(foreign))
                damaged.append(reason)
            elif engine.graph_name == graph_name and engine.key.flavour == wanted.flavour:
                foreign.append(f"`{engine.path}` {difference}")
        return Lookup(None, tuple(damaged), tuple(foreign))

    def find(self, wanted: EngineKey, graph_name: str = "") -> BuiltEngine:
        """Return the newest engine that fits and is intact.

        Raises
        ------
        BackendError
            If there is none, with the reason and the next step.
        """
        lookup = self.look(wanted, graph_name)
        if lookup.engine is None:
            raise BackendError(f"{lookup.reason}; {build_hint(wanted)}")
        return lookup.engine

    def damage(self, engine: BuiltEngine) -> str | None:
        """Say why an engine of the right key must not be loaded; None if it may.

        Size and hash must be those of the side-car; on a box with a GPU, TensorRT is asked as well
        where it can say.
        """
        path = engine.path
        try:
            if writer := foreign_writer(path):
                return f"`{path}` must be this user's or root's alone: {writer}"
            n_bytes = path.stat().st_size
            if n_bytes != engine.n_bytes:
                return f"`{path}` must have {engine.n_bytes} bytes, it has {n_bytes}"
            if sha256_file(path) != engine.sha256:
                return f"`{path}` was changed since it was built: its SHA-256 is another"
        except OSError as error:
            return f"`{path}` must be readable: {error.strerror or error}"
        reason = invalidity(engine)
        return f"`{path}` {reason}" if reason else None

    def accept(self, key: EngineKey, parity: Mapping[str, Any]) -> BuiltEngine:
        """Note in its side-car that the newest engine of exactly this key passed the parity gate.

        Parameters
        ----------
        key : EngineKey
            Of the engine that was tested: `BuiltEngine.key`.
        parity : mapping
            Numbers of the gate, for JSON.

        Raises
        ------
        BackendError
            If there is no such engine, or it was changed.
        StorageError
            If the side-car cannot be written.
        """
        engine = next((engine for engine in self.engines() if engine.key == key), None)
        reason = self.damage(engine) if engine else "no engine has this key"
        if engine is None or reason is not None:
            raise BackendError(f"an accepted engine must be intact: {reason}; build it again")
        accepted = {"when": now_utc(), "parity": dict(parity)}
        engine = dataclasses.replace(engine, accepted=accepted)
        engine.write_sidecar()
        return engine

    def accepted(self, wanted: EngineKey) -> BuiltEngine | None:
        """Return the engine accepted last that fits and is intact; None if there is none."""
        gpu = find_gpu()
        dated = [
            (str(engine.accepted["when"]), engine)
            for engine in self.engines()
            if engine.accepted is not None and engine.key.difference(wanted, gpu) is None
        ]
        for _, engine in sorted(dated, key=lambda entry: entry[0], reverse=True):
            if self.damage(engine) is None:
                return engine
        return None

    def prune(self, wanted: EngineKey) -> list[Path]:
        """Remove all other engines of the accepted engine's graph file and flavour.

        Without an accepted engine that fits `wanted` nothing is removed.

        Returns
        -------
        list of Path
            The engines that were removed.

        Raises
        ------
        StorageError
            If a file cannot be removed.
        """
        kept = self.accepted(wanted)
        removed: list[Path] = []
        for engine in self.engines() if kept else []:
            same = kept is not None and (
                engine.graph_name == kept.graph_name and engine.key.flavour == kept.key.flavour
            )
            if same and kept is not None and engine.path != kept.path:
                _remove(engine)
                removed.append(engine.path)
        return removed

    def keep_accepted(self, path: Path) -> None:
        """Set an accepted engine aside before another is written to its place.

        Raises
        ------
        StorageError
            If it cannot be copied.
        """
        sidecar = path.with_name(f"{path.name}.json")
        try:
            engine = read_sidecar(sidecar)
        except BackendError:
            return
        if engine.accepted is None or self.damage(engine) is not None:
            return
        aside = path.with_name(path.name.replace(ENGINE_SUFFIX, f"{_KEPT}{ENGINE_SUFFIX}"))
        kept = dataclasses.replace(engine, path=aside)
        with _storage_errors(aside):
            _link_or_copy(engine.path, kept.path)
            if engine.layers_path.is_file():
                _link_or_copy(engine.layers_path, kept.layers_path)
        kept.write_sidecar()

    def _unreadable(self, wanted: EngineKey, graph_name: str) -> list[str]:
        """Tell which engines of a graph file have no side-car that can be read."""
        reasons = []
        for path in self.folder.glob(f"{Path(graph_name).stem}.{wanted.flavour}.*{ENGINE_SUFFIX}"):
            sidecar = path.with_name(f"{path.name}.json")
            if not sidecar.is_file():
                reasons.append(f"`{path}` has no side-car `{sidecar.name}`")
                continue
            try:
                read_sidecar(sidecar)
            except BackendError as error:
                reasons.append(str(error))
        return reasons


def build_hint(wanted: EngineKey) -> str:
    """Return the next step of a user whose box has no engine for that key."""
    return f"build one with `cff-run engine BUNDLE --flavour {wanted.flavour}`"


def now_utc() -> str:
    """Return the time in UTC to the microsecond; sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def _remove(engine: BuiltEngine) -> None:
    # the side-car goes first: an engine without one is never loaded
    for path in (engine.sidecar_path, engine.layers_path, engine.path):
        with _storage_errors(path):
            path.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{path}` could not be changed: {error.strerror or error}; check the folder's rights"
        ) from error
