"""The axes of a sweep, and which of their combinations exist.

A combination is a whole inspection of one image in a batch. Its time consists of two parts that
are measured: the encoder's batch, and one search of the memory bank. A part serves many
combinations: the encoder does not know the bank, and the search does not know precision or batch.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cff_bench.environment import available_cores
from cff_bench.precision.speed import NOT_TIMED
from cff_runtime.bundle import Bundle

CPU_BACKEND = "onnxruntime/cpu"
BACKENDS = (
    CPU_BACKEND,
    "onnxruntime/cuda",
    "onnxruntime/tensorrt",
    "onnxruntime/nv-tensorrt-rtx",
    "tensorrt",
)
WHOLE = 0  # a bank that is not compressed


@dataclass(frozen=True)
class Axes:
    """Values of every axis; image sizes are those of the bundles.

    Attributes
    ----------
    batches : tuple of int
        Images that the encoder takes at once.
    shots : tuple of int
        References, K.
    banks : tuple of int
        Rows that a stage may have; `WHOLE` leaves the bank as it is.
    precisions : tuple of str
        Empty takes those of the bundles.
    threads : tuple of int
        On a CPU; empty takes 1, 2, 4 and so on, up to the cores there are.
    backends : tuple of str
        Of `BACKENDS`.
    """

    batches: tuple[int, ...] = (1, 2, 4, 8)
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    banks: tuple[int, ...] = (WHOLE,)
    precisions: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    backends: tuple[str, ...] = (CPU_BACKEND,)


@dataclass(frozen=True)
class EncodePart:
    """The encoder on one batch; 0 threads are the backend's own choice."""

    precision: str
    threads: int
    batch: int

    @property
    def key(self) -> str:
        """Its name within the group, stable."""
        return f"encode/{self.precision}/t{self.threads}/b{self.batch}"


@dataclass(frozen=True)
class SearchPart:
    """One image's search of a bank of K references, all stages."""

    threads: int
    shots: int
    bank: int

    @property
    def key(self) -> str:
        """Its name within the group, stable."""
        return f"search/t{self.threads}/k{self.shots}/{bank_name(self.bank)}"


Part = EncodePart | SearchPart


@dataclass(frozen=True)
class Combination:
    """One cell of the matrix: its parts (no search without banks), or why it does not exist."""

    encode: EncodePart
    search: SearchPart | None
    reason: str | None = None


def bank_name(bank: int) -> str:
    """Return the name of a bank size, such as ``whole`` or ``1024``."""
    return "whole" if bank == WHOLE else str(bank)


def bundle_label(bundle: Bundle) -> str:
    """Return a short name of a bundle, such as ``efficientnet-lite0-256``."""
    manifest = bundle.manifest
    name = str(manifest.backbone.get("name", "bundle")).replace(":", "-").replace("/", "-")
    height, width = manifest.preprocessing.height, manifest.preprocessing.width
    return f"{name}-{height}" if height == width else f"{name}-{height}x{width}"


def bundle_labels(bundles: Sequence[Bundle]) -> list[str]:
    """Return one name a bundle; equal ones get the beginning of the bundle's id."""
    labels = [bundle_label(bundle) for bundle in bundles]
    return [
        f"{label}-{bundle.manifest.id[:8]}" if labels.count(label) > 1 else label
        for label, bundle in zip(labels, bundles, strict=True)
    ]


def default_threads() -> tuple[int, ...]:
    """Return 1, 2, 4 and so on up to the cores there are, these included."""
    cores = available_cores()
    powers = (1 << exponent for exponent in range(cores.bit_length()))
    return tuple(sorted({*powers, cores}))


def thread_counts(axes: Axes, backend: str) -> tuple[int, ...]:
    """Return the threads to measure: on a device the backend's own choice alone, 0."""
    if backend != CPU_BACKEND:
        return (0,)
    return axes.threads or default_threads()


def combinations(
    axes: Axes, backend: str, bundle: Bundle, batch_limits: Mapping[str, int | None]
) -> list[Combination]:
    """Return all combinations of a bundle on a backend, each with the reason if it has none.

    Parameters
    ----------
    axes : Axes
    backend : str
        One that can run the bundle.
    bundle : Bundle
    batch_limits : mapping of str to int or None
        Largest batch of every precision's graph; None is any.
    """
    precisions = axes.precisions or bundle.manifest.precisions
    banks = list(itertools.product(axes.shots, axes.banks)) if bundle.manifest.searched else [None]
    values = (precisions, thread_counts(axes, backend), axes.batches, banks)
    found = []
    for precision, threads, batch, bank in itertools.product(*values):
        encode = EncodePart(precision, threads, batch)
        search = None if bank is None else SearchPart(threads, *bank)
        reason = encode_reason(encode, backend, bundle, batch_limits)
        if search is not None:
            reason = reason or search_reason(search, bundle)
        found.append(Combination(encode, search, reason))
    return found


def encode_reason(
    part: EncodePart, backend: str, bundle: Bundle, batch_limits: Mapping[str, int | None]
) -> str | None:
    """Return why an encoder cannot be timed, or None."""
    if part.precision not in bundle.manifest.precisions:
        return f"the bundle has no {part.precision}"
    if backend == CPU_BACKEND and part.precision in NOT_TIMED:
        return NOT_TIMED[part.precision]
    if part.threads > available_cores():
        return f"this machine has {available_cores()} cores"
    limit = batch_limits.get(part.precision)
    if limit is not None and part.batch > limit:
        return f"this encoder takes {limit} image{'s' * (limit > 1)} at a time"
    return None


def search_reason(part: SearchPart, bundle: Bundle) -> str | None:
    """Return why a bank does not exist, or None."""
    longest = max(part.shots * stage.n_tokens for stage in bundle.manifest.searched)
    if part.bank != WHOLE and longest <= part.bank:
        return f"at K = {part.shots} a bank has at most {longest} rows, nothing to compress"
    return None


def bank_rows(part: SearchPart, bundle: Bundle) -> list[int]:
    """Return the rows of every stage of a bank."""
    rows = [part.shots * stage.n_tokens for stage in bundle.manifest.searched]
    return rows if part.bank == WHOLE else [min(count, part.bank) for count in rows]


def parts_of(cells: Sequence[Combination]) -> list[Part]:
    """Return what must be measured for these combinations, each part once, in order."""
    parts: dict[Part, None] = {}
    for cell in cells:
        if cell.reason is None:
            parts |= dict.fromkeys(filter(None, (cell.encode, cell.search)))
    return list(parts)
