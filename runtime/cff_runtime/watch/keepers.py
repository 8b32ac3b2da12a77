"""Two threads that keep the engine: one minds the bundle, the other exchanges profiles.

A bundle that changed or vanished is a fault at once; it is opened again, with all its checks,
until it is whole, and the profiles with it. A changed profile is loaded and tried beside the old
one, which goes on until the new one is known to be good.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from cff_runtime.errors import CffError
from cff_runtime.watch.config import SourceConfig, WatchConfig
from cff_runtime.watch.engine import Engine, Judge, OpenEngine, Signature, file_signature
from cff_runtime.watch.output import SourceOutput

log = logging.getLogger(__name__)

_MOST_PAUSE_S, _HOPELESS_S = 5.0, 30.0
BUNDLE, PROFILE, ENGINE = "bundle", "profile", "engine"
OnSwap = Callable[[str, bool], None]  # source, whether it was taken


class Keepers:
    """The engine and the judges of all sources, kept in order.

    Parameters
    ----------
    config : WatchConfig
    opener : callable
        Opens the engine.
    outputs : mapping of str to SourceOutput
    on_swap : callable, optional
        Called with a source's name and whether its new profile was taken.
    """

    def __init__(
        self,
        config: WatchConfig,
        opener: OpenEngine,
        outputs: Mapping[str, SourceOutput],
        on_swap: OnSwap = lambda source, taken: None,
    ) -> None:
        self._config, self._opener, self._outputs = config, opener, outputs
        self._on_swap = on_swap
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: str | None = None
        self._failed_at = 0.0
        self._seen: dict[str, Signature] = {}
        self._missing_since: dict[str, float] = {}
        self.checked_at = time.monotonic()
        self.is_opening = False
        self._engine, self._judges, self._signature = self._open()

    def start(self) -> None:
        """Begin to mind bundle and profiles."""
        self.checked_at = time.monotonic()
        for name, run in (("bundle", self._mind_bundle), ("profiles", self._mind_profiles)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()

    def judge(self, source: str) -> Judge:
        """Return what inspects the next frame of a source."""
        return self._judges[source]

    def report_failure(self, reason: str) -> None:
        """Have the engine opened again; it is a fault of all sources until it works."""
        for output in self._outputs.values():
            output.fault(ENGINE, reason)
        self._failure, self._failed_at = reason, time.monotonic()

    @property
    def is_whole(self) -> bool:
        """Whether the engine may be used."""
        return self._failure is None and not self.is_opening

    @property
    def needs_new_process(self) -> bool:
        """Whether the engine failed so long ago that only a new process may help, as with CUDA."""
        failed_s = time.monotonic() - self._failed_at
        return self._failure is not None and failed_s > _HOPELESS_S

    def _open(self) -> tuple[Engine, dict[str, Judge], Signature]:
        # signatures before contents: a change meanwhile is seen as a change later
        seen = {one.name: file_signature((one.profile,)) for one in self._config.sources}
        engine = self._opener(self._config)
        signature = file_signature(engine.files)
        judges = {one.name: Judge.load(engine, one.profile) for one in self._config.sources}
        self._seen = seen
        return engine, judges, signature

    def _mind_bundle(self) -> None:
        while not self._stop.wait(self._config.check_ms / 1000):
            signature = file_signature(self._engine.files)
            self.checked_at = time.monotonic()
            if signature == self._signature and signature and self._failure is None:
                continue
            if signature is None:
                self._fault(BUNDLE, "a file of the bundle is gone; copy the bundle again")
            elif signature != self._signature:
                self._fault(BUNDLE, "the bundle has changed and is being checked")
            self._open_again()
            self.checked_at = time.monotonic()

    def _open_again(self) -> None:
        """Try until bundle, engine and profiles are good again."""
        self.is_opening = True
        pause_s = self._config.check_ms / 1000
        while not self._stop.is_set():
            self.checked_at = time.monotonic()
            try:
                opened = self._open()
            except Exception as error:  # a driver may raise anything, and the line goes on
                text = str(error) if isinstance(error, CffError) else repr(error)
                self._fault(ENGINE if self._failure else BUNDLE, text)
                self._wait_for_change(pause_s)
                pause_s = min(2 * pause_s, _MOST_PAUSE_S)
                continue
            before = self._engine.bundle_id
            with self._lock:
                self._engine, self._judges, self._signature = opened
                self._failure = None
                self.is_opening = False
            log.info("bundle %s is open again, before %s", self._engine.bundle_id[:12], before[:12])
            for output in self._outputs.values():
                for kind in (BUNDLE, ENGINE, PROFILE):
                    output.clear(kind)
                output.note(PROFILE, None)
            return

    def _wait_for_change(self, most_s: float) -> None:
        """Pause, but not after somebody has mended something."""
        files = (*self._engine.files, *(source.profile for source in self._config.sources))
        ends, before = time.monotonic() + most_s, [file_signature((path,)) for path in files]
        while not self._stop.wait(self._config.check_ms / 1000) and time.monotonic() < ends:
            self.checked_at = time.monotonic()
            if [file_signature((path,)) for path in files] != before:
                return

    def _fault(self, kind: str, reason: str) -> None:
        for output in self._outputs.values():
            output.fault(kind, reason)

    def _mind_profiles(self) -> None:
        while not self._stop.wait(self._config.check_ms / 1000):
            for source in self._config.sources:
                try:
                    self._mind_profile(source)
                except Exception:
                    log.exception("%s", source.name)

    def _mind_profile(self, source: SourceConfig) -> None:
        signature = file_signature((source.profile,))
        output = self._outputs[source.name]
        if signature is None:
            since = self._missing_since.setdefault(source.name, time.monotonic())
            if time.monotonic() - since >= self._config.check_ms / 1000:  # a copy may begin anew
                self._seen[source.name] = None
                output.fault(PROFILE, f"profile `{source.profile}` is gone; copy it again")
            return
        self._missing_since.pop(source.name, None)
        if signature == self._seen[source.name] or self.is_opening:
            return
        self._stop.wait(self._config.check_ms / 1000)
        if file_signature((source.profile,)) != signature:
            return  # still being written
        engine = self._engine
        try:
            judge = Judge.load(engine, source.profile)
        except Exception as error:  # of a library, too: the old profile goes on
            self._seen[source.name] = signature
            self._refuse(source, str(error) if isinstance(error, CffError) else repr(error))
            return
        with self._lock:
            if self._engine is not engine:
                return  # the bundle was exchanged meanwhile: once more
            self._seen[source.name] = signature
            before = self._judges[source.name]
            self._judges = {**self._judges, source.name: judge}
        output.clear(PROFILE)
        output.note(PROFILE, None)
        if before.profile_sha256 != judge.profile_sha256:
            log.info("%s: profile %s is in use", source.name, judge.profile_sha256[:12])
            self._on_swap(source.name, True)

    def _refuse(self, source: SourceConfig, reason: str) -> None:
        output = self._outputs[source.name]
        text = f"the changed profile was refused: {reason}"
        if PROFILE in output.faults:  # it was gone, and this one is no replacement
            output.fault(PROFILE, text)
        output.note(PROFILE, text)
        self._on_swap(source.name, False)
