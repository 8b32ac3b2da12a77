"""Scoring blocks of images by Ray actors, each with one inspector of its own.

A worker writes a block's part itself, so that nothing but counts travels, and a worker or a
driver that dies takes no finished block along. Ray starts a dead worker again and gives it the
block once more. An image that its worker died of `MAX_DEATHS` times is left out with an error:
without that a file that exhausts the memory would be tried for ever.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from cff_runtime.batch_results import block_name, has_part, open_path, write_part
from cff_runtime.batch_source import ImageKey
from cff_runtime.errors import BackendError, CffError
from cff_runtime.imaging import load_image
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile

MAX_DEATHS = 3
_START_SECONDS = 600  # a worker that dies while it loads would be started for ever

Block = Sequence[tuple[ImageKey, bytes]]


@dataclass(frozen=True)
class Job:
    """What every worker needs to know; paths are absolute and the same on every machine.

    Attributes
    ----------
    bundle : Path
    precision : str
        Of the bundle's encoder.
    profile, out : Path
    backend : str
    options : mapping
        Of the backend; ``threads`` is what each worker gets of the CPU.
    """

    bundle: Path
    precision: str
    profile: Path
    out: Path
    backend: str
    options: Mapping[str, Any]


def score_blocks(job: Job, blocks: Sequence[Block], n_workers: int, n_gpus: float) -> Iterator[int]:
    """Score blocks of images into parts; yield the size of each finished block.

    Parameters
    ----------
    job : Job
    blocks : sequence of blocks
    n_workers : int
    n_gpus : float
        GPUs of each worker.

    Raises
    ------
    BackendError
        If a worker cannot start, or dies again and again.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = _START_SECONDS
    items = [
        {"images": [{**key._asdict(), "path": path} for key, path in block]} for block in blocks
    ]
    scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Scorer,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=n_workers),
        num_cpus=job.options["threads"],
        num_gpus=n_gpus,
    )
    try:
        for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch["n_images"].to_pylist()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BackendError(
            f"Ray must keep its workers alive: {reason}; finished blocks are kept, run the same "
            "command again"
        ) from error


class Scorer:
    """What an actor holds: an inspector and a profile."""

    def __init__(self, job: Job) -> None:
        cv2.setNumThreads(job.options["threads"])
        self._inspector = Inspector.open(job.bundle, job.backend, job.options, job.precision)
        self._profile = Profile.load(job.profile)
        self._out = job.out

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the blocks of a table with the column `images`."""
        sizes = []
        for row in batch.to_pylist():
            block = [
                (ImageKey(*(image[name] for name in ImageKey._fields)), image["path"])
                for image in row["images"]
            ]
            score_block(self._inspector, self._profile, self._out, block)
            sizes.append(len(block))
        return pa.table({"n_images": sizes})


def score_block(inspector: Inspector, profile: Profile, out: Path, block: Block) -> None:
    """Write the part of a block, unless it is there.

    Raises
    ------
    StorageError
        If the part cannot be written.
    """
    name = block_name(key for key, _ in block)
    if has_part(out, name):  # the worker died, or was thought dead, after writing it
        return
    note = open_path(out, name)
    deaths = _count_deaths(note)
    rows = []
    for index, (key, path) in enumerate(block):
        row: dict[str, Any] = key._asdict()
        if deaths.count(index) >= MAX_DEATHS:
            row["error"] = f"its worker died {MAX_DEATHS} times; is it too large for the memory?"
        else:
            note.write_text(json.dumps({"at": index, "deaths": deaths}), encoding="utf-8")
            row |= _inspect(inspector, profile, Path(os.fsdecode(path)))
        rows.append(row)
    write_part(out, name, rows)


def _count_deaths(note: Path) -> list[int]:
    """Return the index of the image of each earlier attempt's end, that of the last included."""
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        return [*facts["deaths"], facts["at"]]
    except FileNotFoundError:
        note.parent.mkdir(parents=True, exist_ok=True)
        return []
    except ValueError:  # killed while it wrote
        return []


def _inspect(inspector: Inspector, profile: Profile, path: Path) -> dict[str, Any]:
    try:
        result = inspector.inspect(load_image(path), profile)
    except (CffError, OSError, MemoryError, ValueError) as error:
        text = str(error).encode("utf-8", "backslashreplace").decode()
        return {"error": text or type(error).__name__}
    return {
        "verdict": result.verdict,
        "score": result.score,
        "threshold": result.threshold,
        "text_score": result.text_score,
        "regions": [
            dict(zip(("x", "y", "width", "height"), region.box, strict=True))
            | {"area_px": region.area_px, "peak": region.peak}
            for region in result.regions
        ],
        "total_ms": result.total_ms,
    }


def split_blocks(images: Iterable[tuple[ImageKey, bytes]], size: int) -> list[Block]:
    """Cut images into blocks of `size`, the last maybe smaller."""
    rest = list(images)
    return [rest[start : start + size] for start in range(0, len(rest), size)]
