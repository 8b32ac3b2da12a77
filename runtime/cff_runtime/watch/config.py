"""What `cff-run watch` is told: the same fields as options and as TOML, one table for both."""

# ruff: noqa: RUF009 - `_option` makes a dataclass field

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_runtime.errors import MissingDependencyError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Limits = tuple[float, float]


def _option(
    default: Any,
    text: str,
    limits: Limits | None = None,
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
) -> Any:
    metadata = {"help": text, "limits": limits, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SourceConfig:
    """A ``[[source]]``: a folder or a camera, and how it is treated. Field meanings: see `help`."""

    profile: Path = _option(Path(), "profile of the product", metavar="FILE")
    folder: Path | None = _option(None, "folder to take images from", metavar="DIR")
    camera: str | None = _option(
        None, "device number, /dev/video*, or RTSP address", metavar="DEVICE"
    )
    name: str = _option("line", "name of the source, in folders, records and metrics")
    after: str = _option(
        "move", "what becomes of a recorded file", None, ("move", "delete", "keep")
    )
    policy: str = _option(
        "", "block, or drop-oldest; by default block for a folder", None, ("block", "drop-oldest")
    )
    queue: int = _option(2, "frames that may wait", (1, 1000))
    poll_ms: int = _option(50, "pause between two looks at the folder", (1, 60_000))
    settle_ms: int = _option(200, "a file counts once it is unchanged for so long", (0, 600_000))
    patience_ms: int = _option(
        2000, "how long an unreadable file must be unchanged to be called bad", (0, 600_000)
    )
    interval_ms: int = _option(0, "least time between two inspected frames", (0, 3_600_000))
    read_timeout_ms: int = _option(700, "a camera silent for longer is a fault", (50, 600_000))
    hang_ms: int = _option(5000, "a read that hangs for longer is given up", (100, 3_600_000))
    max_hung: int = _option(4, "reads given up that may hang at a time", (1, 100))
    reopen_ms: int = _option(200, "first pause before a camera is opened again", (1, 60_000))
    frozen_frames: int = _option(
        5, "equal frames that make a frozen camera, 0 for never", (0, 10**6)
    )
    frozen_ms: int = _option(500, "and how long they must have been equal", (0, 3_600_000))
    black: bool = _option(True, "take a black or white image for a failed camera")
    condition: bool = _option(True, "compare focus, exposure and shift with the references")


@dataclass(frozen=True)
class WatchConfig:
    """The ``[watch]`` table and its sources. Field meanings: see `help`."""

    bundle: Path = _option(Path(), "folder made by cff-export", metavar="DIR")
    records: Path = _option(Path(), "folder of the records", metavar="DIR")
    state: Path | None = _option(
        None, "folder of the state files, a tmpfs such as /run/cff-watch", metavar="DIR"
    )
    backend: str = _option("onnxruntime", "inference backend")
    provider: str = _option("cpu", "execution provider of onnxruntime")
    threads: int = _option(0, "CPU threads, 0 for all cores", (0, 1024))
    provider_option: tuple[str, ...] = _option(
        (), "of the provider, KEY=VALUE, may be given again", metavar="KEY=VALUE"
    )
    backend_option: tuple[str, ...] = _option(
        (), "of the backend, KEY=VALUE, may be given again", metavar="KEY=VALUE"
    )
    trusted_key: tuple[Path, ...] = _option(
        (), "public key that must have signed bundle and profiles", metavar="FILE"
    )
    stdout: bool = _option(False, "also write a line of JSON per decision to stdout")
    sync_ms: int = _option(
        0, "0: every record is flushed at once; else every so often", (0, 60_000)
    )
    file_mb: float = _option(16.0, "size at which a file of records is closed", (0.001, 4096))
    limit_mb: float = _option(0.0, "of records of a source, the oldest go; 0 keeps all", (0, 1e9))
    rejects_mb: float = _option(0.0, "of pictures of rejects of a source; 0 for none", (0, 1e9))
    low_mb: float = _option(500.0, "warn when the records' disk has less left", (0, 1e9))
    check_ms: int = _option(200, "pause between looks at bundle and profiles", (10, 60_000))
    stuck_ms: int = _option(800, "an inspection that takes longer is a fault", (50, 600_000))
    stop_ms: int = _option(5000, "time to finish the inspection in work at the end", (0, 600_000))
    drift: bool = _option(True, "watch scores, features and pictures for slow changes")
    metrics_port: int = _option(0, "port of the Prometheus metrics, 0 for none", (0, 65_535))
    metrics_address: str = _option("127.0.0.1", "address of the metrics; others can reach others")
    sources: tuple[SourceConfig, ...] = ()


# pairs of a table's name and its fields, for the command line
WATCH_FIELDS = tuple(f for f in dataclasses.fields(WatchConfig) if f.name != "sources")
SOURCE_FIELDS = dataclasses.fields(SourceConfig)


def read_config(path: Path) -> WatchConfig:
    """Read ``watch.toml``; relative paths start at its folder.

    Raises
    ------
    UsageError
        If it cannot be read, a key is unknown or missing, or a value is out of range.
    """
    try:
        tables = _parse_toml(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` must be readable TOML: {error}") from error
    _refuse_unknown(tables, ("watch", "source"), str(path))
    sources = tables.get("source", [])
    if not isinstance(sources, list) or not all(isinstance(one, dict) for one in sources):
        raise UsageError("`source` must be tables, each begins with [[source]]")
    watch = tables.get("watch", {})
    if not isinstance(watch, dict):
        raise UsageError("`watch` must be a table, begin it with [watch]")
    return make_config(watch, sources, path.absolute().parent)


def make_config(watch: Mapping[str, Any], sources: list[dict[str, Any]], base: Path) -> WatchConfig:
    """Check every field and what the fields say together.

    Parameters
    ----------
    watch : mapping
        Fields of `WatchConfig`; others keep their defaults.
    sources : list of dict
        Fields of a `SourceConfig` each.
    base : Path
        Where relative paths start.

    Raises
    ------
    UsageError
        Naming the field, as ``watch.records`` or ``source[2].camera``.
    """
    _refuse_unknown(watch, [f.name for f in WATCH_FIELDS], "watch")
    fields = {
        f.name: _value(f, watch[f.name], "watch", base) for f in WATCH_FIELDS if f.name in watch
    }
    for name in ("bundle", "records"):
        if name not in fields:
            raise UsageError(f"`watch.{name}` must be given, it is missing")
    if not sources:
        raise UsageError("there must be at least one source, give --folder, --camera or [[source]]")
    made = []
    for number, given in enumerate(sources, start=1):
        where = f"source[{number}]"
        _refuse_unknown(given, [f.name for f in SOURCE_FIELDS], where)
        values = {
            f.name: _value(f, given[f.name], where, base) for f in SOURCE_FIELDS if f.name in given
        }
        made.append(_source(values, where, fields))
    names = [one.name for one in made]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"`source.name` must be of one source each, got {repeated[0]!r} twice")
    folders = [one.folder.resolve() for one in made if one.folder is not None]
    if len(set(folders)) < len(folders):
        raise UsageError("`source.folder` must be of one source each, got one folder twice")
    cameras = [one.camera for one in made if one.camera is not None]
    if len(set(cameras)) < len(cameras):
        raise UsageError("`source.camera` must be of one source each, got one camera twice")
    return WatchConfig(**fields, sources=tuple(made))


def _source(values: dict[str, Any], where: str, watch: Mapping[str, Any]) -> SourceConfig:
    if "profile" not in values:
        raise UsageError(f"`{where}.profile` must be given, it is missing")
    source = SourceConfig(**values)
    if (source.folder is None) == (source.camera is None):
        raise UsageError(f"`{where}` must have either `folder` or `camera`, got both or none")
    if not _NAME.fullmatch(source.name) or source.name == "mode":
        raise UsageError(
            f"`{where}.name` must be letters, digits, - and _, 64 at most, got {source.name!r:.80}"
        )
    if source.folder is not None and source.policy == "drop-oldest":
        raise UsageError(
            f"`{where}.policy` must be `block` for a folder, whose files wait by themselves"
        )
    if source.camera is not None and "after" in values:
        raise UsageError(f"`{where}.after` must be given with `folder` only, a camera has no files")
    if source.after == "keep" and watch.get("limit_mb"):
        raise UsageError(
            f"`{where}.after` must not be `keep` with `watch.limit_mb`: with the oldest records "
            "gone, it would be forgotten which files were inspected; use `move`"
        )
    policy = source.policy or ("block" if source.folder is not None else "drop-oldest")
    return dataclasses.replace(source, policy=policy)


def _value(field: "dataclasses.Field[Any]", value: Any, where: str, base: Path) -> Any:
    """Return a value of the field's type and within its limits."""
    name, kind = f"{where}.{field.name}", str(field.type)
    if "tuple" in kind:
        values = value if isinstance(value, list | tuple) else [value]
        if "str" in kind:
            return tuple(_text(one, name) for one in values)
        return tuple(_path(one, name, base) for one in values)
    if "Path" in kind:
        return _path(value, name, base)
    if "bool" in kind:
        if not isinstance(value, bool):
            raise UsageError(f"`{name}` must be true or false, got {value!r:.80}")
        return value
    if "int" in kind or "float" in kind:
        return _number(field, value, name)
    value = _text(value, name)
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise UsageError(f"`{name}` must be one of {', '.join(choices)}, got {value!r:.80}")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"`{name}` must be text, got {value!r:.80}")
    return value


def _path(value: Any, name: str, base: Path) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise UsageError(f"`{name}` must be a path, got {value!r:.80}")
    return base / Path(value).expanduser()


def _number(field: "dataclasses.Field[Any]", value: Any, name: str) -> Any:
    whole = "int" in str(field.type)
    low, high = field.metadata["limits"]
    fits = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not fits or not low <= value <= high:  # NaN fails too
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"`{name}` must be {kind} from {low:g} to {high:g}, got {value!r:.80}")
    return value


def _refuse_unknown(given: Mapping[str, Any], known: Any, where: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"`{key}` must be a known key of `{where}`; {hint}")


def _parse_toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingDependencyError(
                "--config needs `tomli` on Python 3.10; install cff-edge[watch] with pip"
            ) from error
    return tomllib.loads(text)
