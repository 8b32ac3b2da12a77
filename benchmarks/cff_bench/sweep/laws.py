"""The laws that a sweep is held against: scoring, batch, threads, image size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cff_bench.sweep.axes import (
    CPU_BACKEND,
    WHOLE,
    Combination,
    EncodePart,
    Part,
    SearchPart,
    bank_rows,
    parts_of,
)
from cff_bench.sweep.fits import LineFit, fit_amdahl, fit_line, serial_share, verdict
from cff_bench.sweep.measurement import Group, Sweep

SCORING, BATCH, THREADS, SIZE = "scoring", "batch", "threads", "size"
FORMULAS = {
    SCORING: "t = a + b M",
    BATCH: "t = a + b B",
    THREADS: "t = a + b / threads",
    SIZE: "t = a + b pixels",
}
# what b is counted in: x is divided by this
_UNITS = {SCORING: 1000.0, BATCH: 1.0, THREADS: 1.0, SIZE: 1e6}
UNIT_NAMES = {
    SCORING: "ms per 1000 rows",
    BATCH: "ms per image",
    THREADS: "ms",
    SIZE: "ms per megapixel",
}


@dataclass(frozen=True, eq=False)
class Law:
    """A law fitted to some parts.

    Attributes
    ----------
    kind : str
        `SCORING`, `BATCH`, `THREADS` or `SIZE`.
    of : str
        What it is about, a stable key.
    fit : LineFit
        In units of `UNIT_NAMES`; for threads x is 1 / threads.
    x : list of float
        What the points are plotted over: rows, images, threads, pixels.
    places : list of str
        What every point is called.
    """

    kind: str
    of: str
    fit: LineFit
    x: list[float]
    places: list[str]

    @property
    def sentence(self) -> str:
        """Whether it holds, and what it means."""
        said = verdict(
            self.fit, "the line" if self.kind != THREADS else "Amdahl's law", self.places
        )
        if self.kind != THREADS:
            return said
        return f"{said}; {_gain(self.fit)}"


def _gain(fit: LineFit) -> str:
    """Say what threads gain, as far as it can be told from noise."""
    low, high = fit.slope_interval or (fit.slope, fit.slope)
    if high < 0:
        return "more threads take longer"
    if low <= 0:
        return "a gain by threads cannot be told from noise"
    if fit.intercept < 0:
        return "more threads gain more than their number"
    return f"{serial_share(fit):.0%} of one thread's time does not shrink with threads"


def find_laws(sweep: Sweep) -> list[Law]:
    """Fit every law that has at least two points."""
    laws: list[Law] = []
    for group in sweep.groups:
        parts = parts_of(group.cells)
        laws += _scoring(group, parts)
        laws += _batch(group, parts)
        laws += _threads(group, parts)
    return [*laws, *_sizes(sweep.groups)]


def _scoring(group: Group, parts: Sequence[Part]) -> Iterator[Law]:
    banks = [p for p in parts if isinstance(p, SearchPart) and p.bank == WHOLE]
    for threads in dict.fromkeys(part.threads for part in banks):
        chosen = sorted((p for p in banks if p.threads == threads), key=lambda p: p.shots)
        rows = [float(sum(bank_rows(part, group.bundle))) for part in chosen]
        places = [f"K = {part.shots}" for part in chosen]
        yield from _law(SCORING, group, f"search/t{threads}", chosen, rows, places)


def _batch(group: Group, parts: Sequence[Part]) -> Iterator[Law]:
    encoders = [p for p in parts if isinstance(p, EncodePart)]
    for precision, threads in dict.fromkeys((p.precision, p.threads) for p in encoders):
        chosen = [p for p in encoders if (p.precision, p.threads) == (precision, threads)]
        chosen.sort(key=lambda p: p.batch)
        batches = [float(part.batch) for part in chosen]
        places = [f"B = {part.batch}" for part in chosen]
        of = f"encode/{precision}/t{threads}"
        yield from _law(BATCH, group, of, chosen, batches, places)


def _threads(group: Group, parts: Sequence[Part]) -> Iterator[Law]:
    if group.backend != CPU_BACKEND:
        return
    families: dict[str, list[Part]] = {}
    for part in _telling(parts):
        families.setdefault(part.key.replace(f"/t{part.threads}/", "/"), []).append(part)
    for name, members in families.items():
        members.sort(key=lambda part: part.threads)
        counts = [float(part.threads) for part in members]
        places = [f"{part.threads} thread{'s' * (part.threads > 1)}" for part in members]
        yield from _law(THREADS, group, name, members, counts, places)


def _telling(parts: Sequence[Part]) -> list[Part]:
    """Return the encoders' smallest batch and the search of the largest whole bank."""
    batches = [part.batch for part in parts if isinstance(part, EncodePart)]
    shots = [p.shots for p in parts if isinstance(p, SearchPart) and p.bank == WHOLE]
    return [
        part
        for part in parts
        if (isinstance(part, EncodePart) and part.batch == min(batches))
        or (isinstance(part, SearchPart) and part.bank == WHOLE and part.shots == max(shots))
    ]


def _sizes(groups: Sequence[Group]) -> Iterator[Law]:
    """Compare the sizes of one network; groups took turns one after the other."""
    families: dict[tuple[str, str, str], list[tuple[int, Group]]] = {}
    for group in groups:
        manifest = group.bundle.manifest
        pixels = manifest.preprocessing.height * manifest.preprocessing.width
        key = (str(manifest.backbone.get("name")), group.backend, manifest.map.output)
        families.setdefault(key, []).append((pixels, group))
    for (name, backend, _), members in families.items():
        members.sort(key=lambda member: member[0])
        if len({pixels for pixels, _ in members}) < 2:
            continue
        shared = set.intersection(*(set(_encode_keys(group)) for _, group in members))
        sizes = [float(count) for count, _ in members]
        places = [f"{count / 1e6:.2f} megapixels" for count in sizes]
        for part in _encode_keys(members[0][1]):
            if part in shared:
                rounds = list(zip(*(group.samples[part] for _, group in members), strict=True))
                fit = fit_line([count / _UNITS[SIZE] for count in sizes], rounds)
                yield Law(SIZE, f"{name}/{backend}/{part}", fit, sizes, places)


def _encode_keys(group: Group) -> list[str]:
    cells: Sequence[Combination] = group.cells
    encoders = [part for part in parts_of(cells) if isinstance(part, EncodePart)]
    smallest = min((part.batch for part in encoders), default=1)
    return [part.key for part in encoders if part.batch == smallest]


def _law(
    kind: str,
    group: Group,
    of: str,
    parts: Sequence[Part],
    x: Sequence[float],
    places: Sequence[str],
) -> Iterator[Law]:
    if len(set(x)) < 2:
        return
    rounds = list(zip(*(group.samples[part.key] for part in parts), strict=True))
    if kind == THREADS:
        fit = fit_amdahl([int(count) for count in x], rounds)
    else:
        fit = fit_line([value / _UNITS[kind] for value in x], rounds)
    yield Law(kind, f"{group.name}/{of}", fit, list(x), list(places))
