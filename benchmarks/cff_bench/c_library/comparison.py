"""libcff and the Python runtime in turns: the same bundle, profile and image.

Each inspects in a process of its own; a few inspections of the one follow a few of the other, so
that whatever else the machine does hits both. The C program is compiled here against the library
under test.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cff_bench.c_library.process import STAGES, InspectingProcess, Inspection
from cff_bench.environment import collect_environment
from cff_bench.latency import noise_image
from cff_bench.timing import format_table, summarize
from cff_runtime.bundle import Bundle
from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.imaging import load_image
from cff_runtime.profile import Profile

# what the project holds libcff to
MAX_RATIO, MAX_EXTRA_MB, MAX_GROWTH = 1.0, 64.0, 0.01
PER_TURN = 5
SETTLED = 200  # inspections after which allocators have what they need
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparisonSettings:
    """What to measure.

    Attributes
    ----------
    library : Path
        ``libcff.so``, with its header in ``include`` of the same prefix or of the sources.
    include : Path
        Folder of ``cff.h``.
    bundle, profile : Path
    image : Path or None
        None takes seeded noise.
    n, warmup : int
        Timed inspections of each, and those before them.
    endurance : int
        Further inspections of libcff, whose memory must stay as it is; 0 for none.
    threads : int
        Of both.
    command : tuple of str
        The command line, for the report.
    """

    library: Path
    include: Path
    bundle: Path
    profile: Path
    image: Path | None
    n: int
    warmup: int
    endurance: int
    threads: int
    command: tuple[str, ...] = ()


def run_comparison(settings: ComparisonSettings) -> dict[str, Any]:
    """Time both, and follow libcff's memory.

    Returns
    -------
    dict
        ``rows`` (a stage each), ``ratio``, ``score_diff``, ``memory``, ``endurance``,
        ``environment``, ``settings`` and ``command``, ready for JSON.

    Raises
    ------
    UsageError
        If a count is out of range or a file does not exist.
    MissingDependencyError
        If there is no C compiler.
    BackendError
        If a process fails.
    """
    _check(settings)
    environment = collect_environment()  # before the run: its own load is not the machine's
    image = noise_image() if settings.image is None else load_image(settings.image)
    height, width = image.shape[:2]
    with tempfile.TemporaryDirectory(prefix="cff-c-library-") as name:
        folder = Path(name)
        pixels = folder / "pixels"
        pixels.write_bytes(image.tobytes())
        subject = (settings.bundle, settings.profile, pixels, width, height, settings.threads)
        arguments = [str(value) for value in subject]
        program = _compile(settings, folder)
        python = [sys.executable, "-m", "cff_bench.c_library.inspections"]
        with (
            _process([str(program), *arguments], folder / "c") as in_c,
            _process([*python, *arguments], folder / "python") as in_python,
        ):
            timed = _take_turns(settings, in_c, in_python)
            memory = {"libcff": in_c.memory_mb(), "python": in_python.memory_mb()}
            endurance = _endure(in_c, settings.endurance)
    rows = [_row(stage, *timed) for stage in STAGES]
    scores = [np.array([one.score for one in side]) for side in timed]
    return {
        "rows": rows,
        "ratio": {"p50": rows[0]["p50_ratio"], "at_most": MAX_RATIO},
        "score_diff": float(np.abs(scores[0] - scores[1]).max()),
        "memory": _memory_facts(settings, memory),
        "endurance": endurance,
        "image": {"width_px": width, "height_px": height},
        "environment": environment.to_dict(),
        "settings": {
            "n": settings.n,
            "warmup": settings.warmup,
            "threads": settings.threads,
            "per_turn": PER_TURN,
        },
        "command": list(settings.command),
    }


def format_comparison(report: dict[str, Any]) -> str:
    """Return the report as text."""
    rows = [
        (
            row["name"],
            f"{row['libcff_p50_ms']:.2f}",
            f"{row['python_p50_ms']:.2f}",
            f"{row['p50_ratio']:.3f}",
        )
        for row in report["rows"]
    ]
    memory, settings, endurance = report["memory"], report["settings"], report["endurance"]
    lines = [
        format_table(("stage, p50 ms", "libcff", "Python", "ratio"), rows),
        "",
        f"n = {settings['n']} after {settings['warmup']}, {settings['threads']} threads, "
        f"in turns of {settings['per_turn']}; largest difference of scores "
        f"{report['score_diff']:.1e}",
        f"memory    libcff {memory['libcff']['now']:.0f} MB (peak {memory['libcff']['peak']:.0f}), "
        f"Python {memory['python']['now']:.0f} MB (peak {memory['python']['peak']:.0f}); graphs "
        f"and profile {memory['files_mb']:.0f} MB, libcff beyond them {memory['extra_mb']:.0f} MB "
        f"(at most {memory['extra_at_most_mb']:.0f})",
    ]
    if endurance is not None:
        lines.append(
            f"endurance {endurance['n']} inspections: memory grew by "
            f"{100 * endurance['growth']:.2f} % (at most {100 * MAX_GROWTH:.0f} %)"
        )
    return "\n".join(lines)


def fails(report: dict[str, Any]) -> list[str]:
    """Return what the project promises of libcff and this report does not show."""
    found = []
    if report["ratio"]["p50"] > MAX_RATIO:
        found.append(f"libcff takes {report['ratio']['p50']:.3f} of Python's time")
    if report["memory"]["extra_mb"] > MAX_EXTRA_MB:
        found.append(f"libcff needs {report['memory']['extra_mb']:.0f} MB beyond its files")
    endurance = report["endurance"]
    if endurance is not None and endurance["growth"] > MAX_GROWTH:
        found.append(f"libcff's memory grew by {100 * endurance['growth']:.1f} %")
    return found


def _check(settings: ComparisonSettings) -> None:
    if settings.n < PER_TURN or settings.warmup < 0 or settings.endurance < 0:
        raise UsageError(
            f"`n` must be at least {PER_TURN}, `--warmup` and `--endurance` at least 0, got "
            f"{settings.n}, {settings.warmup} and {settings.endurance}"
        )
    for name, path in (
        ("library", settings.library),
        ("include", settings.include / "cff.h"),
        ("profile", settings.profile),
    ):
        if not path.is_file():
            raise UsageError(f"`{name}` must be there, `{path}` is not; build it with `make c`")


def _compile(settings: ComparisonSettings, folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingDependencyError("a C compiler must be installed as `cc` for this")
    program, library = folder / "inspections", settings.library.resolve()
    command = [compiler, "-std=c99", "-O2", f"-I{settings.include}", "-o", str(program)]
    command += [str(Path(__file__).with_name("inspections.c")), str(library)]
    command += [f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"`{library}` must be libcff with its header, compiling says: {last}")
    return program


@contextmanager
def _process(command: list[str], errors: Path) -> Iterator[InspectingProcess]:
    with errors.open("w+b") as file, closing(InspectingProcess(command, file)) as process:
        yield process


def _take_turns(
    settings: ComparisonSettings, *processes: InspectingProcess
) -> tuple[list[Inspection], ...]:
    """Return n inspections of every process."""
    timed: tuple[list[Inspection], ...] = tuple([] for _ in processes)
    for process in processes:
        process.inspect(settings.warmup)
    while len(timed[0]) < settings.n:
        for process, found in zip(processes, timed, strict=True):
            found += process.inspect(min(PER_TURN, settings.n - len(found)))
    return timed


def _endure(process: InspectingProcess, n: int) -> dict[str, Any] | None:
    if n == 0:
        return None
    process.inspect(SETTLED)
    memory = [process.memory_mb()["now"]]
    log.info("endurance: %d inspections", n)
    for left in range(n, 0, -SETTLED):
        process.inspect(min(SETTLED, left))
        memory.append(process.memory_mb()["now"])
    return {
        "n": n,
        "every": SETTLED,
        "memory_mb": memory,
        "growth": max(memory) / memory[0] - 1.0,
        "at_most": MAX_GROWTH,
    }


def _row(stage: str, in_c: list[Inspection], in_python: list[Inspection]) -> dict[str, Any]:
    c, python = (summarize([one.ms[stage] for one in side]) for side in (in_c, in_python))
    return {
        "name": stage,
        "libcff_p50_ms": c.p50_ms,
        "python_p50_ms": python.p50_ms,
        "p50_ratio": c.p50_ms / python.p50_ms,
        "libcff": asdict(c),
        "python": asdict(python),
    }


def _memory_facts(
    settings: ComparisonSettings, memory: dict[str, dict[str, float]]
) -> dict[str, Any]:
    bundle = Bundle.open(settings.bundle)
    manifest = bundle.manifest
    graphs = [manifest.encoder, f"{manifest.encoder}.data", *manifest.scorers]
    n_bytes = sum(manifest.files[name].n_bytes for name in graphs if name in manifest.files)
    profile = Profile.load(settings.profile)
    bank_bytes = sum(bank.nbytes for bank in profile.banks)
    files_mb = (n_bytes + bank_bytes) / 1e6
    return {
        **memory,
        "graphs_mb": n_bytes / 1e6,
        "bank_mb": bank_bytes / 1e6,
        "files_mb": files_mb,
        "extra_mb": memory["libcff"]["peak"] - files_mb,
        "extra_at_most_mb": MAX_EXTRA_MB,
        "bundle": manifest.id,
        "backbone": manifest.backbone["name"],
        "input_px": [manifest.preprocessing.height, manifest.preprocessing.width],
        "n_references": profile.n_references,
    }
