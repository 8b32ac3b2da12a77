"""The subcommand `all` of `cff-bench`: every report, one after the other, in one page.

Each part is a command of its own in a process of its own: its threads, memory and failures are not
the next part's, and every report names the command that makes it alone. A part whose JSON is there
from the same command is not measured again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cff_bench.peers.command import FULL_BUNDLE
from cff_bench.report.document import Report
from cff_runtime.errors import UsageError
from cff_runtime.storage import atomic_write

DEFAULT_BUNDLE = Path("build/demo/bundle")
FAILED = 1
_TIMEOUT_S = 3600.0
_LAST_LINES = 3


@dataclass(frozen=True)
class AllSettings:
    """What `cff-bench all` measures.

    Attributes
    ----------
    out : Path
        Folder of `report.json`, `report.html` and, in `parts`, every part's own files.
    bundle, profile : Path
    image : Path or None
        Part to inspect in `latency`; None takes noise in memory, of which nothing is decoded.
    is_full : bool
        More rounds, and ViT-L/14 beside its peers, which takes long.
    only : tuple of str
        Names of parts; empty is all.
    again : bool
        Measure also what is there.
    """

    out: Path
    bundle: Path
    profile: Path
    image: Path | None = None
    is_full: bool = False
    only: tuple[str, ...] = ()
    again: bool = False


def _latency(settings: AllSettings) -> list[str]:
    image = [] if settings.image is None else ["--image", str(settings.image)]
    n = "1000" if settings.is_full else "500"
    return ["latency", str(settings.bundle), "--profile", str(settings.profile), *image, "-n", n]


def _table6(settings: AllSettings) -> list[str]:
    return ["table6", "--grid", *_fewer(settings, "-n", "30", "--warmup", "2")]


def _peers(settings: AllSettings) -> list[str]:
    return ["peers", str(settings.bundle), *(["--full"] if settings.is_full else [])]


def _roofline(settings: AllSettings) -> list[str]:
    return ["roofline", str(settings.bundle), *_fewer(settings, "-n", "12", "--warmup", "2")]


def _roofline_of_vit(settings: AllSettings) -> list[str]:
    return ["roofline", str(FULL_BUNDLE)] if settings.is_full else []


def _sweep(settings: AllSettings) -> list[str]:
    journal = str(settings.out / "parts" / "sweep.journal")
    n = "100" if settings.is_full else "20"
    return ["sweep", str(settings.bundle), "-n", n, "--journal", journal]


def _accuracy_latency(settings: AllSettings) -> list[str]:
    cells = str(settings.out / "parts" / "accuracy-latency")
    n = "200" if settings.is_full else "50"
    return ["accuracy-latency", str(settings.bundle), "-n", n, "--out", cells]


def _evaluate_cost(settings: AllSettings) -> list[str]:
    # scikit-learn takes half a minute a round
    return ["evaluate-cost", *_fewer(settings, "--rival-rounds", "1")]


def _fewer(settings: AllSettings, *options: str) -> list[str]:
    return [] if settings.is_full else list(options)


# name -> the words after `cff-bench` that measure it, none where only `--full` does; in the order
# of the page
PARTS: dict[str, Callable[[AllSettings], list[str]]] = {
    "latency": _latency,
    "table6": _table6,
    "peers": _peers,
    "roofline": _roofline,
    "roofline-vit-l": _roofline_of_vit,
    "sweep": _sweep,
    "accuracy-latency": _accuracy_latency,
    "evaluate-cost": _evaluate_cost,
}


def add_all_parser(subparsers: Any) -> None:
    """Add ``all`` to the subparsers of ``cff-bench``."""
    parser = subparsers.add_parser(
        "all",
        help="every report, one after the other, as report.json and report.html",
        description="Measures the parts one after the other, each in a process of its own, and "
        "puts them on one page. Interrupted, it goes on where it stopped; a part that fails is "
        f"told and the others go on. Parts: {', '.join(PARTS)}.",
    )
    parser.add_argument(
        "bundle",
        type=Path,
        nargs="?",
        default=DEFAULT_BUNDLE,
        metavar="BUNDLE",
        help="default: %(default)s, of `make demo`",
    )
    parser.add_argument(
        "--profile", type=Path, metavar="P", help="default: the only one beside the bundle"
    )
    parser.add_argument(
        "--image", type=Path, metavar="F", help="to inspect (default: the demo's first test image)"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="%(default)s")
    parser.add_argument("--full", action="store_true", help="more rounds, and ViT-L/14 among peers")
    parser.add_argument("--only", default="", metavar="A,B", help="parts (default: all)")
    parser.add_argument("--again", action="store_true", help="measure also what is there")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 where a check of a report fails"
    )
    parser.set_defaults(run=_run_all)


def run_all(settings: AllSettings, tell: Callable[[str], None]) -> tuple[list[Report], list[str]]:
    """Measure the parts and write the page.

    Parameters
    ----------
    settings : AllSettings
    tell : callable
        Takes a line of progress.

    Returns
    -------
    tuple of list of Report and list of str
        What was measured, and a sentence for every part that failed.

    Raises
    ------
    UsageError
        If a part is unknown or none gave a report.
    """
    from cff_bench.report.html import format_html
    from cff_bench.report.reading import load_reports, save_reports

    names = settings.only or tuple(name for name in PARTS if PARTS[name](settings))
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise UsageError(f"`--only` must name {', '.join(PARTS)}, got {unknown[0]}")
    for name in names:
        if not PARTS[name](settings):
            raise UsageError(f"part {name} must be measured with `--full`, it takes long")
    folder = settings.out / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    reports, failures, seconds = [], [], {}
    for index, name in enumerate(names):
        arguments = PARTS[name](settings)
        shown = f"[{index + 1}/{len(names)}] cff-bench {' '.join(arguments)}"
        path = folder / f"{name}.json"
        if not settings.again and _is_measured(path, arguments):
            tell(f"{shown}: there already")
        else:
            tell(shown)
            problem = measure_part(arguments, path)
            if problem:
                failures.append(f"{name} was not measured: {problem}")
                tell(f"    FAILED: {problem}")
                continue
            tell(f"    {_seconds(path):.0f} s")
        reports += load_reports(path)
        seconds[name] = _seconds(path)
    if not reports:
        raise UsageError(f"at least one part must give a report, got none: {'; '.join(failures)}")
    save_reports(settings.out / "report.json", reports)
    title = "cff-edge: what inspection costs on this machine"
    page = format_html(reports, title, failures, {"measured in": _durations(seconds)})
    atomic_write(settings.out / "report.html", page.encode())
    return reports, failures


def measure_part(arguments: Sequence[str], path: Path, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a command of cff-bench in a process of its own; return what went wrong, or nothing.

    Its report goes to `path`, its text beside it, its progress to this process's stderr.
    """
    start = time.monotonic()
    command = [sys.executable, "-m", "cff_bench.cli", *arguments, "--json", str(path)]
    _command_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    text = path.with_suffix(".txt")
    errors = path.with_suffix(".log")
    try:
        with text.open("wb") as output, errors.open("wb") as log:
            finished = subprocess.run(
                command, stdout=output, stderr=log, timeout=timeout_s, check=False
            )
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:.0f} s"
    if not path.is_file():
        return _reason(errors, finished.returncode)
    done = {"arguments": list(arguments), "seconds": round(time.monotonic() - start, 1)}
    atomic_write(_command_file(path), json.dumps(done).encode())
    return ""


def _durations(seconds: dict[str, float]) -> str:
    """Return such as ``11 min: latency 25 s, table6 102 s``."""
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"{sum(seconds.values()) / 60:.1f} min: {parts}"


def _reason(log: Path, code: int) -> str:
    """Return the last lines of a log, from the error on where there is one."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    found = [line for line in lines if line.startswith("error: ")]
    words = " ".join(found[-1:] or lines[-_LAST_LINES:]).removeprefix("error: ")
    return words or f"it ended with exit code {code}"


def _is_measured(path: Path, arguments: Sequence[str]) -> bool:
    """Return whether a readable report of the same command is there."""
    from cff_bench.report.reading import load_reports

    try:
        load_reports(path)
        done = json.loads(_command_file(path).read_bytes())
        return bool(done["arguments"] == list(arguments) and done["seconds"] >= 0)
    except (UsageError, OSError, ValueError, TypeError, KeyError):
        return False


def _seconds(path: Path) -> float:
    return float(json.loads(_command_file(path).read_bytes())["seconds"])


def _command_file(path: Path) -> Path:
    return path.with_suffix(".command")


def _run_all(args: argparse.Namespace) -> int:
    only = tuple(name.strip() for name in args.only.split(",") if name.strip())
    profile = _profile(args)
    image = args.image or _test_image(args.bundle, profile)
    settings = AllSettings(args.out, args.bundle, profile, image, args.full, only, args.again)

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    reports, failures = run_all(settings, tell)
    failed = [check for report in reports for check in report.failed]
    n_checks = sum(len(report.checks) for report in reports)
    sys.stdout.write(
        f"{len(reports)} reports, {n_checks - len(failed)} of {n_checks} checks without fault: "
        f"{settings.out / 'report.html'}\n"
    )
    return FAILED if failures or (args.check and failed) else 0


def _profile(args: argparse.Namespace) -> Path:
    if args.profile is not None:
        return Path(args.profile)
    found = sorted(args.bundle.parent.glob("*.profile.safetensors"))
    if not args.bundle.is_dir() or len(found) != 1:
        raise UsageError(
            f"`{args.bundle}` must be a bundle with one profile beside it, got {len(found)}; run "
            "`make demo`, or name both"
        )
    return found[0]


def _test_image(bundle: Path, profile: Path) -> Path | None:
    """Return the first test image that `make demo` drew of the profile's product."""
    product = profile.name.partition(".")[0]
    return min(bundle.parent.glob(f"synthetic/{product}/test/*/*.png"), default=None)
