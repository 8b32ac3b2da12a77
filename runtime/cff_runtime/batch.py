"""Score very many images on several processes or machines, through Ray Data.

Ray and pyarrow are imported when a batch runs, not before. What is written: `batch_results`.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from cff_runtime.backends import DEFAULT_BACKEND, require_backend
from cff_runtime.batch_source import list_source
from cff_runtime.bundle import Bundle
from cff_runtime.errors import MissingDependencyError, UsageError
from cff_runtime.profile import Profile
from cff_runtime.storage import sha256_file

MAX_BLOCK_IMAGES = 64
_BLOCKS_PER_WORKER = 4  # at least, so that no worker waits long for the last one
_STORE_BYTES = 128 << 20  # only paths and counts pass through it

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BatchSummary:
    """What became of a batch.

    Attributes
    ----------
    n_images, n_pass, n_review, n_reject, n_errors : int
        Of all images of the source; every error has its text in the results.
    n_scored : int
        Images scored now; the others had a result already.
    seconds : float
        From start to end, the cluster's start included.
    images_per_second : float
        Scored now, over the time that took with the workers' start, without the cluster's.
    n_workers, threads : int
        Workers, and CPU threads of each; 0 where nothing was left to score.
    results : str
        The table of all rows.
    """

    n_images: int
    n_pass: int
    n_review: int
    n_reject: int
    n_errors: int
    n_scored: int
    seconds: float
    images_per_second: float
    n_workers: int
    threads: int
    results: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


def run_batch(
    bundle: Path,
    source: Path,
    profile: Path,
    out: Path,
    column: str | None = None,
    n_workers: int | None = None,
    address: str = "local",
    backend: str = DEFAULT_BACKEND,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress | None = None,
) -> BatchSummary:
    """Score every image of a source that has no result in `out` yet.

    Bundle, profile, images and `out` must have the same paths on every machine of the cluster.

    Parameters
    ----------
    bundle, source, profile, out : Path
        See `cff_runtime.batch_source.list_source` for the source.
    column : str, optional
        Of paths, in a Parquet source.
    n_workers : int, optional
        One per CPU of the cluster, or per GPU with a GPU provider, if None.
    address : str
        Of a Ray cluster; ``local`` starts one on this machine.
    backend : str
        As of `Inspector.open`; all but ``onnxruntime`` on the CPU takes a GPU for each worker.
    options : mapping
        Of the backend. ``threads`` are those of each worker; 0 shares the cluster's CPUs out
        equally.
    progress : callable, optional
        Called with (images scored, images to score).

    Raises
    ------
    MissingDependencyError
        If Ray or pyarrow is not installed.
    UsageError
        If an argument, the source or `out` cannot be used, or the workers do not fit the cluster.
    BackendError
        If the cluster cannot be reached or its workers cannot run the bundle.
    BundleError, ProfileError, StorageError
    """
    try:
        from cff_runtime import batch_results, batch_workers, ray_cluster
    except ImportError as error:
        raise MissingDependencyError(
            f"a batch needs a package that is not installed ({error}); install cff-edge[ray] "
            "with pip"
        ) from error
    require_backend(backend)
    started = perf_counter()
    bundle, profile, out = bundle.absolute(), profile.absolute(), out.absolute()
    images = list_source(source, column)
    manifest = Bundle.open(bundle).manifest
    manifest = manifest.view(Profile.load(profile).precision_in(manifest))
    batch_results.claim_folder(out, manifest.id, sha256_file(profile))
    shutil.rmtree(out / batch_results.OPEN_FOLDER, ignore_errors=True)
    finished = batch_results.finished_images(out)
    todo = [item for item in images.items() if item[0] not in finished]

    n_scored, scoring_seconds = 0, 0.0
    if todo:
        n_cores = len(os.sched_getaffinity(0))
        with ray_cluster.join_cluster(address, n_cores, _STORE_BYTES) as resources:
            provider = options.get("provider", "cpu") if backend == DEFAULT_BACKEND else backend
            n_workers, threads = _share(resources, n_workers, options.get("threads", 0), provider)
            size = math.ceil(len(todo) / (n_workers * _BLOCKS_PER_WORKER))
            blocks = batch_workers.split_blocks(todo, min(size, MAX_BLOCK_IMAGES))
            given = dict(options)
            if backend == DEFAULT_BACKEND:
                given["threads"] = threads
            job = batch_workers.Job(bundle, manifest.precision, profile, out, backend, given)
            begun = perf_counter()
            for n_images in batch_workers.score_blocks(
                job, blocks, n_workers, float(provider != "cpu")
            ):
                n_scored += n_images
                if progress is not None:
                    progress(n_scored, len(todo))
            scoring_seconds = perf_counter() - begun
    counts = batch_results.write_results(out, images)
    return BatchSummary(
        n_images=len(images),
        n_pass=counts["pass"],
        n_review=counts["review"],
        n_reject=counts["reject"],
        n_errors=counts["errors"],
        n_scored=n_scored,
        seconds=perf_counter() - started,
        images_per_second=n_scored / scoring_seconds if n_scored else 0.0,
        n_workers=n_workers if n_workers and todo else 0,
        threads=threads if todo else 0,
        results=str(out / batch_results.RESULTS_NAME),
    )


def _share(
    resources: Mapping[str, float], n_workers: int | None, threads: int, provider: str
) -> tuple[int, int]:
    """Return the number of workers and the CPU threads of each, none idle and none fought over.

    Raises
    ------
    UsageError
        If they do not fit the cluster.
    """
    n_cpus, n_gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if n_workers is None:
        n_workers = max(1, n_cpus // max(1, threads) if provider == "cpu" else n_gpus)
    if n_workers < 1:
        raise UsageError(f"`--workers` must be 1 or more, got {n_workers}")
    if threads < 0:
        raise UsageError(f"`--threads` must be 0 or more, got {threads}")
    threads = threads or max(1, n_cpus // n_workers)
    if n_workers * threads > n_cpus:
        raise UsageError(
            f"`--workers` times `--threads` must fit the cluster's {n_cpus} CPUs, got "
            f"{n_workers} x {threads}"
        )
    if provider != "cpu" and n_workers > n_gpus:
        raise UsageError(
            f"`{provider}` must have a GPU for each worker, got {n_workers} "
            f"worker{'' if n_workers == 1 else 's'} and {n_gpus} GPUs in the cluster; "
            "use fewer workers or the provider cpu"
        )
    return n_workers, threads
