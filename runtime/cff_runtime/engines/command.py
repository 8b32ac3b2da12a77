"""`cff-run engine`: build and check the TensorRT engines of a bundle."""

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cff_runtime.bundle import Bundle
from cff_runtime.engines.bundle_engines import (
    WantedEngine,
    build_bundle_engines,
    check_bundle_engines,
)
from cff_runtime.engines.key import BANK_ROWS, EngineSettings, static
from cff_runtime.engines.record import BuiltEngine
from cff_runtime.engines.store import Lookup
from cff_runtime.errors import UsageError
from cff_runtime.manifest import DEFAULT_PRECISION

_INTERVAL_S = 0.2
_QUIET_INTERVAL_S = 10.0
_LINE_CHARACTERS = 100
_INDEX_TYPES = ("INT64", "INT32", "BOOL")  # of layers that compute shapes


def add_engine_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command `engine` to the commands of `cff-run`."""
    engine = commands.add_parser(
        "engine",
        help="build or check TensorRT engines of a bundle",
        description="Build the engines that a bundle lacks: of its encoder and its scorers.",
    )
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by cff-export")
    engine.add_argument("--flavour", required=True, help="tensorrt or tensorrt-rtx")
    engine.add_argument("--precision", default=DEFAULT_PRECISION, help="of the encoder")
    add_engine_options(engine)
    engine.add_argument("--rebuild", action="store_true", help="build all again")
    engine.add_argument(
        "--check", action="store_true", help="build nothing, exit 1 if an engine is missing"
    )
    engine.add_argument("--engines", type=Path, metavar="DIR", help="BUNDLE/engines if not given")
    engine.add_argument("--json", action="store_true", help="JSON to stdout")
    engine.set_defaults(command=_engine)


def add_engine_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say how engines are built; `engine_settings` reads them."""
    parser.add_argument(
        "--compute-capability",
        default="",
        metavar="X.Y[,X.Y]",
        help="with tensorrt-rtx; this GPU's if not given, without a GPU all from 8.0 on",
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch", type=int, default=1, help="images at once, exactly (1)")
    batch.add_argument(
        "--batch-profile", metavar="MIN,OPT,MAX", help="images at once, a range; slower and larger"
    )
    parser.add_argument("--workspace-mib", type=int, help="most scratch memory on the GPU")
    parser.add_argument("--tf32", action="store_true", help="let fp32 products be rounded to TF32")
    parser.add_argument(
        "--inspect", action="store_true", help="open what was built and report its layers (GPU)"
    )


def engine_settings(flavour: str, arguments: argparse.Namespace) -> EngineSettings:
    """Return the settings that the options of `add_engine_options` ask for.

    Raises
    ------
    UsageError
        If a value is out of range or none of the choices.
    """
    size = static(arguments.batch)
    if arguments.batch_profile is not None:
        numbers = _numbers(arguments.batch_profile)
        size = (numbers[0], numbers[1], numbers[2])
    named = [name.strip() for name in arguments.compute_capability.split(",")]
    return EngineSettings(
        flavour=flavour,
        compute_capabilities=tuple(name for name in named if name),
        sizes={"bank": static(BANK_ROWS), "image": size},
        workspace_mib=arguments.workspace_mib,
        tf32=arguments.tf32,
        inspect=arguments.inspect,
    )


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"`--batch-profile` must be three numbers MIN,OPT,MAX, got {text!r}")
    return [int(part) for part in parts]


def _engine(arguments: argparse.Namespace) -> int:
    settings = engine_settings(arguments.flavour, arguments)
    bundle = Bundle.open(arguments.bundle, arguments.precision)
    if arguments.check:
        checked = check_bundle_engines(bundle, settings, arguments.engines)
        return _print_checked(checked, arguments.json)
    with shown_progress() as progress:
        engines = build_bundle_engines(
            bundle, settings, progress, arguments.engines, arguments.rebuild
        )
    if arguments.json:
        _say(json.dumps({"engines": [_facts(engine) for engine in engines]}))
    else:
        _say("\n".join(map(engine_line, engines)))
    return 0


def engine_line(engine: BuiltEngine) -> str:
    """Return path, size, seconds and layers per type of an engine, as one line for people."""
    counts = engine.n_by_type.items()
    types = ", ".join(f"{n} {name}" for name, n in counts if name not in _INDEX_TYPES)
    weak = ", weakly typed" if engine.typing == "weak" else ""
    how = "there already" if engine.reused else f"{engine.build_seconds:.1f} s"
    return f"{engine.path}  {engine.n_bytes / 1e6:.1f} MB  {how}  {types}{weak}"


def _print_checked(checked: Sequence[tuple[WantedEngine, Lookup]], as_json: bool) -> int:
    if as_json:
        found = [
            {
                "graph": wanted.graph.name,
                "engine": lookup.engine and _facts(lookup.engine),
                "reason": None if lookup.engine else lookup.reason,
            }
            for wanted, lookup in checked
        ]
        _say(json.dumps({"engines": found}))
    for wanted, lookup in [] if as_json else checked:
        if lookup.engine is not None:
            accepted = "accepted" if lookup.engine.accepted else "not accepted yet"
            _say(f"ok       {wanted.graph.name}  {lookup.engine.path}, {accepted}")
        elif lookup.damaged:
            _say(f"REFUSED  {wanted.graph.name}  {lookup.reason}; `--rebuild` would build it again")
        else:
            _say(f"missing  {wanted.graph.name}  {lookup.reason}; would be built")
    return 0 if all(lookup.engine for _, lookup in checked) else 1


def _facts(engine: BuiltEngine) -> dict[str, Any]:
    return {"path": str(engine.path), "reused": engine.reused, **engine.to_dict()}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def shown_progress() -> Iterator["ProgressLine"]:
    """Yield a callback for `build_bundle_engines` that shows progress on stderr.

    A terminal gets one line whose seconds count up, so that a long step is not taken for a crash; a
    log file gets a line every ten seconds.
    """
    line = ProgressLine()
    ended = threading.Event()

    def redraw() -> None:
        while not ended.wait(_INTERVAL_S if sys.stderr.isatty() else _QUIET_INTERVAL_S):
            line.draw()

    thread = threading.Thread(target=redraw, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        ended.set()
        thread.join()
        line.clear()


class ProgressLine:
    """The state of a build as a line of text; called by the builder, drawn by a clock."""

    def __init__(self) -> None:
        self._graph: str | None = None
        self._started_s = self._told_s = time.monotonic()
        self._phase, self._done = "", 0.0
        self._left_s: float | None = None

    def __call__(self, graph: str, phase: str, done: float, left_s: float | None) -> None:
        """Take the state of the build of `graph`."""
        now = time.monotonic()
        if graph != self._graph:
            self._graph, self._started_s = graph, now
        self._phase, self._done, self._left_s, self._told_s = phase, done, left_s, now
        if done >= 1.0:
            self.clear()
            self._graph = None

    def text(self) -> str:
        """Return the line."""
        now = time.monotonic()
        elapsed = now - self._started_s
        parts = [f"{self._graph}  {elapsed:.0f} s  {self._phase}"]
        if self._left_s is not None:
            left = max(self._left_s - (now - self._told_s), 0.0)
            done = max(self._done, min(elapsed / max(elapsed + left, 1e-9), 0.99))
            parts.append(f"{100 * done:.0f} %, about {left:.0f} s left")
        return "  ".join(parts)[:_LINE_CHARACTERS]

    def draw(self) -> None:
        """Write the line to stderr."""
        if self._graph is not None:
            start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
            sys.stderr.write(f"{start}{self.text():<{_LINE_CHARACTERS}}{end}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line off a terminal."""
        if self._graph is not None and sys.stderr.isatty():
            sys.stderr.write(f"\r{'':<{_LINE_CHARACTERS}}\r")
            sys.stderr.flush()
