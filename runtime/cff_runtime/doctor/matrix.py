"""What fits what: JetPack, L4T, CUDA, TensorRT, ONNX Runtime and Python, as data with sources.

The rows are in ``matrix.json``. Each has the addresses that it was read at and the date. A field is
null where nothing that can be cited was read, and then no advice rests on it.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class JetPack:
    """A release of JetPack; `l4t` are the releases of Jetson Linux that belong to it."""

    jetpack: str
    l4t: Sequence[str]
    ubuntu: str | None
    python: str | None
    cuda: str | None
    cudnn: str | None
    tensorrt: str | None
    boards: str
    note: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class OnnxRuntimeBuild:
    """The package ``onnxruntime-gpu`` from `first` to `last`: the CUDA that it links.

    `packages` are the processor architectures that it is published for, `python_from` the oldest
    Python of its newest release.
    """

    first: str
    last: str
    cuda: int
    cudnn: int
    tensorrt: str | None
    python_from: str | None
    packages: Sequence[str]
    note: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class CudaDriver:
    """The oldest Linux driver for a CUDA major version."""

    cuda: int
    driver: str
    note: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class TensorRt:
    """Releases of one flavour of TensorRT.

    `jetpack_from` is ``none`` where no JetPack is supported, a release where that is the oldest,
    and empty where nothing was read against any. `compute_capabilities` is empty where all from
    `compute_capability_from` on are supported.
    """

    flavour: str
    first: str
    last: str
    jetpack_from: str
    cuda: Sequence[int]
    driver: str | None
    compute_capability_from: str | None
    compute_capabilities: Sequence[str]
    note: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class KnownBad:
    """Reports of engines that give wrong results without any error.

    `ours` says whether the engines that this project builds would fall under it.
    """

    id: str
    ours: bool
    flavour: str
    first: str
    last: str
    precisions: Sequence[str]
    transformers_only: bool
    compute_capabilities: Sequence[str]
    effect: str
    advice: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class Conflict:
    """Python packages that must not be installed together."""

    packages: Sequence[str]
    effect: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class PackageIndex:
    """Where a JetPack finds packages that PyPI does not have for it."""

    jetpack_major: int
    cuda: str
    python: str
    url: str
    note: str
    sources: Sequence[str]
    read: str


@dataclass(frozen=True)
class Matrix:
    """All tables; later rows are newer releases."""

    jetpack: tuple[JetPack, ...]
    onnxruntime: tuple[OnnxRuntimeBuild, ...]
    cuda_driver: tuple[CudaDriver, ...]
    tensorrt: tuple[TensorRt, ...]
    known_bad: tuple[KnownBad, ...]
    conflicts: tuple[Conflict, ...]
    indexes: tuple[PackageIndex, ...]

    def jetpack_of(self, l4t: str | None, package: str | None = None) -> JetPack | None:
        """Return the row of a release of Jetson Linux, else of a version of ``nvidia-jetpack``."""
        for row in self.jetpack:
            if l4t is not None and any(_same(l4t, listed) for listed in row.l4t):
                return row
        for row in self.jetpack:
            if package is not None and _same(package, row.jetpack):
                return row
        return None

    def onnxruntime_of(self, release: str) -> OnnxRuntimeBuild | None:
        """Return the row of a release of ``onnxruntime-gpu``."""
        return next((r for r in self.onnxruntime if in_range(release, r.first, r.last)), None)

    def tensorrt_of(self, flavour: str, release: str | None) -> TensorRt | None:
        """Return the row of a release of TensorRT, the newest if it is None."""
        rows = [row for row in self.tensorrt if row.flavour == flavour]
        if release is None:
            return rows[-1]
        return next((row for row in rows if in_range(release, row.first, row.last)), None)

    def oldest_driver(self, cuda_major: int) -> str | None:
        """Return the oldest driver that runs a CUDA major version."""
        return next((row.driver for row in self.cuda_driver if row.cuda == cuda_major), None)

    def bad_rows(
        self,
        flavour: str,
        release: str | None,
        precision: str,
        is_transformer: bool,
        compute_capability: str | None,
    ) -> list[KnownBad]:
        """Return the reports of wrong results that this engine would fall under."""
        return [
            row
            for row in self.known_bad
            if release is not None
            and row.ours
            and row.flavour == flavour
            and in_range(release, row.first, row.last)
            and precision in row.precisions
            and (is_transformer or not row.transformers_only)
            and (not row.compute_capabilities or compute_capability in row.compute_capabilities)
        ]


@functools.cache
def load_matrix() -> Matrix:
    """Return the matrix that comes with the package."""
    text = files("cff_runtime.doctor").joinpath("matrix.json").read_text(encoding="utf-8")
    return parse_matrix(json.loads(text))


def parse_matrix(tables: Mapping[str, Any]) -> Matrix:
    """Return the tables as rows; an unknown or missing field is a TypeError."""
    return Matrix(
        jetpack=tuple(JetPack(**row) for row in tables["jetpack"]),
        onnxruntime=tuple(OnnxRuntimeBuild(**row) for row in tables["onnxruntime"]),
        cuda_driver=tuple(CudaDriver(**row) for row in tables["cuda_driver"]),
        tensorrt=tuple(TensorRt(**row) for row in tables["tensorrt"]),
        known_bad=tuple(KnownBad(**row) for row in tables["known_bad"]),
        conflicts=tuple(Conflict(**row) for row in tables["conflicts"]),
        indexes=tuple(PackageIndex(**row) for row in tables["indexes"]),
    )


def release_numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a release: ``10.3.0.30-1+cuda12.5`` is (10, 3, 0, 30)."""
    found = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(number) for number in found[0].split(".")) if found else ()


def at_least(release: str, oldest: str) -> bool:
    """Return whether a release is `oldest` or newer; 10.3 counts as 10.3.0."""
    have, need = release_numbers(release), release_numbers(oldest)
    width = max(len(have), len(need))
    return have + (0,) * (width - len(have)) >= need + (0,) * (width - len(need))


def in_range(release: str, first: str, last: str) -> bool:
    """Return whether a release lies from `first` to `last`, where last 10.3 holds all of 10.3.x."""
    end = release_numbers(last)
    return at_least(release, first) and release_numbers(release)[: len(end)] <= end


def _same(release: str, listed: str) -> bool:
    """Return whether a release is the listed one; trailing zeros may be missing in either."""
    return at_least(release, listed) and at_least(listed, release)
