"""The command `cff-run watch`: its arguments. The rest is imported when it is asked for."""

import argparse
import dataclasses
import re
from pathlib import Path
from typing import Any

from cff_runtime.errors import UsageError
from cff_runtime.watch.config import (
    SOURCE_FIELDS,
    WATCH_FIELDS,
    WatchConfig,
    make_config,
    read_config,
)

_FIELD = re.compile(r"`(?:watch|source\[1\]|source)\.([a-z_]+)`")
# `bundle` is an argument, and every command of `cff-run` gets --trusted-key
_ADDED_ELSEWHERE = ("bundle", "trusted_key")


def add_watch_parser(commands: Any) -> None:
    """Add ``watch`` to the subparsers of ``cff-run``."""
    watch = commands.add_parser(
        "watch",
        help="inspect what comes to a folder or from a camera, for months",
        description="Inspect every image that comes to a folder or from a camera, keep a record of "
        "each, and put out the verdict for a PLC. Several sources: --config watch.toml. "
        "SIGUSR1 holds, SIGUSR2 goes on, SIGTERM stops.",
    )
    watch.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="made by cff-export")
    watch.add_argument(
        "--config", type=Path, metavar="FILE", help="watch.toml; instead of all other options"
    )
    for field in (*WATCH_FIELDS, *SOURCE_FIELDS):
        if field.name not in _ADDED_ELSEWHERE:
            _add_option(watch, field)
    watch.set_defaults(command=_watch)


def _add_option(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]") -> None:
    kind, default = str(field.type), field.default
    name = f"--{field.name.replace('_', '-')}"
    text = str(field.metadata["help"])
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    if "bool" in kind:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, help=text, **settings)
        return
    if "tuple" in kind:
        settings["action"] = "append"
    elif "Path" in kind:
        settings["type"] = Path
    elif "int" in kind:
        settings["type"] = int
    elif "float" in kind:
        settings["type"] = float
    if default not in (None, "", (), Path()):
        text += f" ({default})"
    metavar = field.metadata["metavar"]
    choices = field.metadata["choices"] or None
    parser.add_argument(name, help=text, metavar=metavar, choices=choices, **settings)


def _watch(arguments: argparse.Namespace) -> int:
    try:
        config = config_from(arguments)
        from cff_runtime.watch.service import watch  # inspecting needs none of it

        return watch(config)
    except UsageError as error:
        if arguments.config is not None:
            raise
        raise UsageError(_as_options(str(error))) from error


def _as_options(text: str) -> str:
    """Name options in place of the fields of a file that was not given."""
    text = text.replace(
        "`source[1]` must have either `folder` or `camera`, got both or none",
        "there must be either `--folder` or `--camera`, got both or none",
    )
    text = text.replace("`watch.bundle` must", "`BUNDLE` must")
    return _FIELD.sub(lambda found: f"`--{found[1].replace('_', '-')}`", text)


def config_from(arguments: argparse.Namespace) -> WatchConfig:
    """Return the configuration that the options or the file of ``--config`` describe.

    Raises
    ------
    UsageError
        As `cff_runtime.watch.config.make_config`, or if both are given.
    """
    given = vars(arguments)
    watch = {f.name: given[f.name] for f in WATCH_FIELDS if given.get(f.name) is not None}
    source = {f.name: given[f.name] for f in SOURCE_FIELDS if given.get(f.name) is not None}
    path = given.get("config")
    if path is None:
        return make_config(watch, [source], Path.cwd())
    if watch or source:
        first = next(iter([*watch, *source]))
        option = "BUNDLE" if first == "bundle" else f"--{first.replace('_', '-')}"
        raise UsageError(f"--config must be given alone, got {option}; write it into `{path}`")
    return read_config(path)
