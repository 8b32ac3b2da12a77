"""The share of the bank search in an inspection, its growth, memory and exactness.

One inspection is decoding, preprocessing, encoder, search of all stages and the fusing of their
maps, as `cff-bench latency` counts it; `share_of_decoded` leaves decoding out, as with a camera. In
every round the encoder runs once and then every bank is searched with the features of that moment,
so that whatever else the machine does hits all alike; shares and ratios are taken within a round.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter_ns, process_time_ns
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cff_bench.environment import collect_environment
from cff_bench.precision.facts import bundle_facts
from cff_bench.search.banks import bank_of, brute_force
from cff_bench.search.memory import memory_beyond_bank_mb
from cff_bench.search.plain_graph import PlainGraph
from cff_bench.search.preselection import int8_candidates, recheck_ms
from cff_bench.timing import summarize
from cff_runtime.backends import Backend, Encoding, open_backend
from cff_runtime.bundle import Bundle
from cff_runtime.coreset import compress_banks, compression_facts
from cff_runtime.errors import UsageError
from cff_runtime.finishing import fuse_maps
from cff_runtime.imaging import IMAGE_SUFFIXES, load_image
from cff_runtime.verification import golden_condition

MAX_SHOTS = 64
BACKEND = "backend"
PLAIN = "plain graph"
log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class SearchSettings:
    """What to measure.

    Attributes
    ----------
    bundle : Path
        Made by `cff-export`.
    images : Path
        Folder of good parts: the last in order is inspected, the first ones are references.
    shots : tuple of int
        Numbers of references, ascending.
    n_encoded : int
        References to encode at most; further ones are made from their features.
    max_bank : int or None
        Rows a stage of compressed banks; None leaves them out.
    max_share : float or None
        Largest share of the search at the first of `shots` that passes.
    n, warmup : int
        Timed rounds and those before them.
    threads : int
        Of ONNX Runtime.
    command : tuple of str
        The command line, for the report.
    """

    bundle: Path
    images: Path
    shots: tuple[int, ...]
    n_encoded: int = 16
    max_bank: int | None = None
    max_share: float | None = None
    n: int = 20
    warmup: int = 3
    threads: int = 1
    command: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Searched:
    """One bank that is timed: who searches it, its uploaded stages, and what is known of them."""

    name: str
    shots: int
    searcher: Backend | PlainGraph
    banks: Sequence[Any]
    facts: Mapping[str, Any]


def run_search(settings: SearchSettings) -> dict[str, Any]:
    """Measure the search of a bundle's memory banks on the CPU.

    Returns
    -------
    dict
        ``banks`` (per K: the plain graph, the backend, and the backend with a compressed bank),
        ``inspection``, ``int8_preselection``, ``images``, ``bundle``, ``environment``,
        ``settings`` and ``command``, ready for JSON.

    Raises
    ------
    UsageError
        If a setting is out of range, the folder holds fewer than two images, or the bundle has no
        memory banks.
    CffError
        Whatever opening, reading and encoding raise.
    """
    _require_settings(settings)
    paths = sorted(p for p in settings.images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if len(paths) < 2:
        raise UsageError(f"`--images` must hold at least two images, got {len(paths)}")
    environment = collect_environment()  # before the work: its own load is not the machine's
    bundle = Bundle.open(settings.bundle)
    if not bundle.manifest.searched:
        raise UsageError(
            f"`BUNDLE` must search memory banks, `{settings.bundle}` has none; "
            "`cff-bench latency` tells its time"
        )
    backend = open_backend("onnxruntime", bundle, {"threads": settings.threads})
    plain = PlainGraph(bundle, settings.threads)
    bench = _Bench(bundle, backend, plain, paths[-1])
    n_references = min(settings.n_encoded, max(settings.shots), len(paths) - 1)
    log.info("encoding %d references", n_references)
    features = [bench.download(bench.encode(load_image(p))) for p in paths[:n_references]]
    stages = [list(stage) for stage in zip(*features, strict=True)]  # [S][K] of [N_s,C_s]
    searched = [
        entry
        for shots in settings.shots
        for entry in bench.prepare([bank_of(s, shots) for s in stages], shots, settings.max_bank)
    ]
    log.info("timing %d rounds", settings.warmup + settings.n)
    rounds = [bench.round(searched) for _ in range(settings.warmup + settings.n)][settings.warmup :]
    peaks = memory_beyond_bank_mb(settings.bundle, settings.shots, settings.threads)
    peak_of = {} if peaks is None else dict(zip(settings.shots, peaks, strict=True))
    shots = min(settings.shots, key=lambda k: abs(k - 4))
    return {
        "banks": [_entry(entry, rounds, peak_of.get(entry.shots)) for entry in searched],
        "inspection": {
            name: asdict(summarize([r[name] for r in rounds]))
            for name in ("decode", "preprocess", "encode", "finish")
        },
        "int8_preselection": bench.preselection(shots, [bank_of(s, shots) for s in stages]),
        "images": {"folder": _told(settings.images), "n_encoded": n_references},
        "bundle": bundle_facts(settings.bundle, bundle.manifest),
        "environment": environment.to_dict(),
        "settings": {
            "shots": list(settings.shots),
            "max_bank": settings.max_bank,
            "max_share": settings.max_share,
            "n": settings.n,
            "warmup": settings.warmup,
            "threads": settings.threads,
            "backend": "onnxruntime, CPUExecutionProvider",
        },
        "command": list(settings.command),
    }


class _Bench:
    """A bundle, its backend and the part that is inspected."""

    def __init__(self, bundle: Bundle, backend: Backend, plain: PlainGraph, part: Path) -> None:
        self._manifest = bundle.manifest
        self._backend = backend
        self._plain = plain
        self._condition = golden_condition(bundle)
        self._part = part
        self._encoding = self.encode(load_image(part))
        self._features = self.download(self._encoding)

    def encode(self, image: NDArray[np.uint8]) -> Encoding:
        return self._backend.encode(self._manifest.preprocessing(image), self._condition)

    def download(self, encoding: Encoding) -> list[NDArray[np.float32]]:
        return [self._backend.download(handle) for handle in encoding.features]

    def prepare(
        self, banks: Sequence[NDArray[np.float32]], shots: int, max_bank: int | None
    ) -> list[Searched]:
        """Upload the banks of K references whole, and compressed if that drops rows."""
        log.info("bank of %d references", shots)
        whole = [
            self._upload(PLAIN, self._plain, shots, banks, {}),
            self._upload(BACKEND, self._backend, shots, banks, {}),
        ]
        if max_bank is None or all(len(bank) <= max_bank for bank in banks):
            return whole
        start_ns, start_cpu_ns = perf_counter_ns(), process_time_ns()
        coresets = compress_banks(banks, max_bank)
        facts = {
            "seconds": (perf_counter_ns() - start_ns) / 1e9,
            "processor_seconds": (process_time_ns() - start_cpu_ns) / 1e9,
            **compression_facts(coresets, self._manifest.distance),
        }
        kept = [bank[coreset.rows] for bank, coreset in zip(banks, coresets, strict=True)]
        name = f"max-bank {max_bank}"
        return [*whole, self._upload(name, self._backend, shots, kept, {"compression": facts})]

    def _upload(
        self,
        name: str,
        searcher: Backend | PlainGraph,
        shots: int,
        banks: Sequence[NDArray[np.float32]],
        facts: Mapping[str, Any],
    ) -> Searched:
        uploaded = [searcher.upload_bank(bank) for bank in banks]
        differences = [
            float(np.abs(best - brute_force(features, bank)).max())
            for best, features, bank in zip(
                _search(searcher, self._encoding, uploaded), self._features, banks, strict=True
            )
        ]
        sizes = {
            "bank_rows": [len(bank) for bank in banks],
            "bank_mb": sum(bank.nbytes for bank in banks) / 1e6,
            "max_difference_to_float64": max(differences),
        }
        return Searched(name, shots, searcher, uploaded, {**sizes, **facts})

    def round(self, searched: Sequence[Searched]) -> dict[str, float]:
        """Return the milliseconds of every part of an inspection, of every bank's search too."""
        manifest, times = self._manifest, {}
        part, times["decode"] = _timed(lambda: load_image(self._part))
        pixels, times["preprocess"] = _timed(lambda: manifest.preprocessing(part))
        encoding, times["encode"] = _timed(lambda: self._backend.encode(pixels, self._condition))
        nearest: list[NDArray[np.float32]] = []
        for entry in searched:
            nearest, times[_key(entry)] = _timed(
                lambda e=entry: _search(e.searcher, encoding, e.banks)
            )
        grids = [stage.grid for stage in manifest.stages]
        _, times["finish"] = _timed(
            lambda: fuse_maps(
                nearest, grids, encoding.map, manifest.map.weight, manifest.distance
            ).max()
        )
        return times

    def preselection(self, shots: int, banks: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
        """Return what int8 would leave to float32, beside the whole search in float32."""
        entries = []
        for stage, (features, bank) in enumerate(zip(self._features, banks, strict=True)):
            uploaded, handle = self._backend.upload_bank(bank), self._encoding.features[stage]
            self._backend.search(stage, handle, uploaded)
            _, plain_ms = _timed(
                lambda s=stage, h=handle, u=uploaded: self._backend.search(s, h, u)
            )
            candidates = int8_candidates(features, bank)
            entries.append(
                {
                    "candidates_share": float(candidates.mean()),
                    "recheck_ms": recheck_ms(features, bank, candidates),
                    "plain_ms": plain_ms,
                }
            )
        return {"shots": shots, "stages": entries}


def _search(
    searcher: Backend | PlainGraph, encoding: Encoding, banks: Sequence[Any]
) -> list[NDArray[np.float32]]:
    return [
        searcher.search(stage, features, bank)
        for stage, (features, bank) in enumerate(zip(encoding.features, banks, strict=True))
    ]


def _entry(
    searched: Searched, rounds: Sequence[Mapping[str, float]], peak_mb: float | None
) -> dict[str, Any]:
    """Return one bank's figures over the rounds."""
    own = [r[_key(searched)] for r in rounds]
    plain = [r[f"{PLAIN} {searched.shots}"] for r in rounds]
    decoded = [r["preprocess"] + r["encode"] + r["finish"] for r in rounds]
    rest = [r["decode"] + part for r, part in zip(rounds, decoded, strict=True)]
    n_rows = sum(searched.facts["bank_rows"])
    return {
        "name": searched.name,
        "shots": searched.shots,
        "search": asdict(summarize(own)),
        "share": float(np.median([a / (a + b) for a, b in zip(own, rest, strict=True)])),
        "share_of_decoded": float(
            np.median([a / (a + b) for a, b in zip(own, decoded, strict=True)])
        ),
        "ratio_to_plain": float(np.median([a / b for a, b in zip(own, plain, strict=True)])),
        "us_per_row": 1e3 * float(np.median(own)) / n_rows,
        "peak_beyond_bank_mb": peak_mb if searched.name == BACKEND else None,
        **searched.facts,
    }


def _told(folder: Path) -> str:
    """Return the folder as others have it: below ``CFF_DATA`` where it lies there."""
    data = os.environ.get("CFF_DATA")
    if data and folder.resolve().is_relative_to(Path(data).resolve()):
        return str(folder.resolve().relative_to(Path(data).resolve()))
    return str(folder)


def _key(searched: Searched) -> str:
    return f"{searched.name} {searched.shots}"


def _timed(function: Callable[..., _T]) -> tuple[_T, float]:
    start_ns = perf_counter_ns()
    result = function()
    return result, (perf_counter_ns() - start_ns) / 1e6


def _require_settings(settings: SearchSettings) -> None:
    if not settings.shots or not 1 <= min(settings.shots) <= max(settings.shots) <= MAX_SHOTS:
        raise UsageError(f"`--shots` must be 1 to {MAX_SHOTS} references, got {settings.shots}")
    if settings.n < 1 or settings.warmup < 0 or settings.n_encoded < 1:
        raise UsageError(
            "`-n` and `--encode` must be at least 1 and `--warmup` at least 0, got "
            f"{settings.n}, {settings.n_encoded} and {settings.warmup}"
        )
    if settings.max_bank is not None and settings.max_bank < 1:
        raise UsageError(f"`--max-bank` must be 1 or more, got {settings.max_bank}")
    if settings.max_share is not None and not 0 < settings.max_share <= 1:
        raise UsageError(f"`--max-share` must be above 0, at most 1, got {settings.max_share}")
    if not settings.images.is_dir():
        raise UsageError(f"`--images` must be a folder, got `{settings.images}`; check the path")
