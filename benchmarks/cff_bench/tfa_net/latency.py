"""One whole inspection with TFA-Net and with CFF, by turns in one process.

From an image in memory to score, map and regions; the references of the first draw are enrolled.
"""

import itertools
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cff_bench.accuracy_latency.artefacts import open_inspector
from cff_bench.compare.comparison import FEWEST
from cff_bench.compare.intervals import (
    Interval,
    MedianScatter,
    paired_ratio_scatter,
    ratio_interval,
)
from cff_bench.report.document import Series
from cff_bench.tfa_net.accuracy import require_bundle
from cff_bench.tfa_net.settings import CFF, POOL, TRAINED, TfaNetSettings
from cff_bench.timing import Samples, sample_interleaved
from cff_edge.evaluation.context import choose_references, read_datasets
from cff_edge.evaluation.references import judged_samples
from cff_runtime import Inspector, Profile
from cff_runtime.bundle import Bundle
from cff_runtime.imaging import load_image
from cff_runtime.manifest import DEFAULT_PRECISION, Manifest

REFERENCE = f"{CFF} {DEFAULT_PRECISION}"
N_IMAGES = 8
PAUSE_MS = 20.0  # thread pools spin for milliseconds after their work is done
_ROLES = {REFERENCE: "reference", f"{TRAINED} {DEFAULT_PRECISION}": "total"}
_CERTAIN = MedianScatter(0.0, 0.0, 1.0)
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Subject:
    """A bundle in one precision, with a profile.

    Attributes
    ----------
    method, precision : str
    bundle : Bundle
    profile : Profile
    profile_bytes : int
        Of its file.
    inspect : callable
        Inspects the next image.
    stages_ms : list of dict
        What its inspections told, warm-up included.
    """

    method: str
    bundle: Bundle
    profile: Profile
    profile_bytes: int
    inspect: Callable[[], None]
    stages_ms: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def precision(self) -> str:
        """Of the encoder."""
        return self.bundle.manifest.precision

    @property
    def name(self) -> str:
        """Stable key."""
        return f"{self.method} {self.precision}"


def time_networks(settings: TfaNetSettings) -> tuple[dict[str, Any], list[Series]]:
    """Time inspections of the first product; return the figures and the raw samples.

    Raises
    ------
    UsageError
        If a bundle is missing.
    CffError
        Whatever opening, enrolling and inspecting raise.
    """
    product = settings.products[0]
    require_bundle(settings, product, TRAINED)
    places = {CFF: settings.cff, TRAINED: settings.bundle(product, TRAINED)}
    notes = _add_precisions(places[TRAINED], settings.precisions)
    references, images = _parts(settings, product)
    subjects = [
        _open(method, bundle.view(precision), references, images, product, settings.threads)
        for method, path in places.items()
        for bundle in [Bundle.open(path)]
        for precision in settings.precisions
        if precision in bundle.manifest.precisions
    ]
    log.info("latency: %d + %d rounds of %d", settings.warmup, settings.n, len(subjects))
    calls = {subject.name: subject.inspect for subject in subjects}
    samples = sample_interleaved(calls, settings.n, settings.warmup, PAUSE_MS)
    facts = {
        "product": product,
        "k": len(references),
        "n_images": len(images),
        "pause_ms": PAUSE_MS,
        "reference": REFERENCE,
        "rows": [_row(subject, samples) for subject in subjects],
        "notes": notes,
    }
    return facts, _series(samples)


def ratio(reference: Sequence[float], values: Sequence[float]) -> Interval:
    """Return the ratio of medians, values / reference, of the same rounds, with its interval."""
    if len(values) < FEWEST:
        return Interval(float(np.median(values) / np.median(reference)), None, None)
    return ratio_interval(_CERTAIN, paired_ratio_scatter(reference, values))


def graph_bytes(manifest: Manifest) -> int:
    """Bytes of the graphs of a bundle's precision, with weights beside them."""
    graphs = (manifest.encoder, *manifest.scorers)
    names = [*graphs, *(f"{name}.data" for name in graphs)]
    return sum(manifest.files[name].n_bytes for name in names if name in manifest.files)


def _add_precisions(path: Path, precisions: Sequence[str]) -> list[str]:
    """Add what the network's bundle lacks; return why one could not be added."""
    held = Bundle.open(path).manifest.precisions
    missing = [name for name in precisions if name not in held]
    if not missing:
        return []
    from cff_export.variants import extend_bundle

    _, outcomes = extend_bundle(path, path, missing)
    refused = [outcome for outcome in outcomes if outcome.refused]
    return [f"{TRAINED} {one.precision} is not timed: {one.refused}" for one in refused]


def _parts(settings: TfaNetSettings, product: str) -> tuple[list[Path], list[NDArray[np.uint8]]]:
    """Return the references of the first draw, and the first test images."""
    datasets = read_datasets([settings.data], [product])
    lists, seeds = choose_references(datasets, settings.shots, settings.seeds, POOL, None)
    (name, dataset), k = next(iter(datasets.items())), max(settings.shots)
    draw = lists.of(name, product, seeds[0])[:k]
    tested = judged_samples(dataset, product, draw)
    step = max(1, len(tested) // N_IMAGES)  # good and defective ones
    images = [load_image(sample.path) for sample in tested[::step][:N_IMAGES]]
    return [dataset.root / path for path in draw], images


def _open(
    method: str,
    bundle: Bundle,
    references: Sequence[Path],
    images: Sequence[NDArray[np.uint8]],
    product: str,
    threads: int,
) -> Subject:
    log.info("latency: enrolling with %s %s", method, bundle.manifest.precision)
    inspector = open_inspector(bundle, threads)
    profile = inspector.enroll(list(references), product)
    with tempfile.TemporaryDirectory(prefix="cff-bench-") as folder:
        file = Path(folder) / "profile.safetensors"
        profile.save(file)
        n_bytes = file.stat().st_size
    told: list[Mapping[str, float]] = []
    call = _inspecting(inspector, profile, images, told)
    return Subject(method, bundle, profile, n_bytes, call, told)


def _inspecting(
    inspector: Inspector,
    profile: Profile,
    images: Sequence[NDArray[np.uint8]],
    told: list[Mapping[str, float]],
) -> Callable[[], None]:
    """Return a call that inspects the next image; called once a round, all get the same one."""
    turns = itertools.cycle(images)
    return lambda: told.append(inspector.inspect(next(turns), profile).stages_ms)


def _row(subject: Subject, samples: Mapping[str, Samples]) -> dict[str, Any]:
    taken = samples[subject.name]
    summary = taken.summary
    found = ratio(samples[REFERENCE].values_ms, taken.values_ms) if REFERENCE in samples else None
    manifest = subject.bundle.manifest
    stages = subject.stages_ms[-summary.n :]
    return {
        "name": subject.name,
        "method": subject.method,
        "precision": subject.precision,
        "bundle_id": manifest.id,
        "backbone": manifest.backbone["name"],
        "input_px": [manifest.preprocessing.height, manifest.preprocessing.width],
        "n": summary.n,
        "p50_ms": summary.p50_ms,
        "p90_ms": summary.p90_ms,
        "p95_ms": summary.p95_ms,
        "p99_ms": summary.p99_ms,
        "jitter_ms": summary.jitter_ms,
        "images_s": summary.throughput,
        "ratio": found.value if found else None,
        "ratio_low": found.low if found else None,
        "ratio_high": found.high if found else None,
        "stages_ms": {name: float(np.median([one[name] for one in stages])) for name in stages[0]},
        "graph_mb": graph_bytes(manifest) / 1e6,
        "bundle_mb": sum(entry.n_bytes for entry in manifest.files.values()) / 1e6,
        "profile_mb": subject.profile_bytes / 1e6,
    }


def _series(samples: Mapping[str, Samples]) -> list[Series]:
    return [
        Series(
            f"tfa-net/{name}",
            "ms",
            one.values_ms,
            "tfa-net",
            _ROLES.get(name, ""),
        )
        for name, one in samples.items()
    ]
