"""Which good images are the references: drawn once, written down, portable.

A draw is an ordered list of images of one product for one seed; its first K are the K-shot
references, so that the draws of a seed are nested. It depends on the product's name, the seed and
the list of images alone, not on any model or global state. The JSON names files relative to the
data set, so that a peer on another machine can use the same images:

    {"schema": 1, "pool": "train",
     "datasets": {"<data set>": {"<product>": {"<seed>": ["train/good/000.png", ...]}}}}
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from cff_edge.datasets import Dataset, Sample
from cff_runtime.errors import DatasetError, UsageError
from cff_runtime.jsonfields import parse_object, take
from cff_runtime.storage import atomic_write

REFERENCES_NAME = "references.json"
POOLS = ("train", "good")
_SCHEMA_VERSION = 1

Draws = Mapping[str, Mapping[str, Mapping[int, tuple[str, ...]]]]


@dataclass(frozen=True)
class ReferenceLists:
    """Draws of all products of some data sets.

    Attributes
    ----------
    pool : {'train', 'good'}
        Drawn from the good training images, or from all good ones, train and test.
    draws : mapping
        Data set, product and seed to an ordered list of paths.
    """

    pool: str
    draws: Draws

    def of(self, dataset: str, product: str, seed: int) -> tuple[str, ...]:
        """Return a draw.

        Raises
        ------
        DatasetError
            If there is none.
        """
        try:
            return self.draws[dataset][product][seed]
        except KeyError:
            raise DatasetError(
                f"references must hold a draw of `{dataset}/{product}` for seed {seed}, they have "
                "none; add one, or leave the product or seed out"
            ) from None

    def seeds(self) -> tuple[int, ...]:
        """Return all seeds of any product, ascending."""
        draws = (seeds for products in self.draws.values() for seeds in products.values())
        return tuple(sorted({seed for seeds in draws for seed in seeds}))

    def restricted(self, datasets: Mapping[str, Dataset]) -> "ReferenceLists":
        """Return the draws of these data sets' products."""
        draws = {
            name: {
                product: self.draws[name][product]
                for product in dataset.products
                if product in self.draws[name]
            }
            for name, dataset in datasets.items()
            if name in self.draws
        }
        return ReferenceLists(self.pool, draws)

    def save(self, path: Path) -> None:
        """Write the JSON.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        fields = {"schema": _SCHEMA_VERSION, "pool": self.pool, "datasets": self.draws}
        atomic_write(path, (json.dumps(fields, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "ReferenceLists":
        """Read the JSON; `reference_problems` tells whether it fits data sets.

        Raises
        ------
        UsageError
            If there is no such file.
        DatasetError
            If it is no list of references.
        """
        if not path.is_file():
            raise UsageError(f"`--references` must be an existing file, got `{path}`")
        try:
            fields = parse_object(path.read_text(encoding="utf-8"), "the file", DatasetError)
            return cls(_parse_pool(fields), _parse_draws(fields))
        except (DatasetError, OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"`{path}` must be a list of references as cff-eval writes it: {error}"
            ) from error


def relative_path(dataset: Dataset, sample: Sample) -> str:
    """Return the sample's path relative to its data set, with ``/``."""
    return sample.path.relative_to(dataset.root).as_posix()


def pool_of(dataset: Dataset, product: str, pool: str) -> list[Sample]:
    """Return the good samples of a product that references may be drawn from."""
    split = "train" if pool == "train" else None
    return dataset.of(product).select(split=split, defective=False)


def draw_references(
    datasets: Mapping[str, Dataset], n_references: int, seeds: Sequence[int], pool: str
) -> ReferenceLists:
    """Draw references of every product, without replacement.

    Parameters
    ----------
    datasets : mapping of str to Dataset
        By name.
    n_references : int
        Length of every draw: the largest K. Pools with fewer give what they have, which
        `reference_problems` refuses.
    seeds : sequence of int
    pool : {'train', 'good'}

    Returns
    -------
    ReferenceLists
    """
    draws = {
        name: {
            product: {
                seed: tuple(_draw(dataset, product, seed, n_references, pool)) for seed in seeds
            }
            for product in dataset.products
        }
        for name, dataset in datasets.items()
    }
    return ReferenceLists(pool, draws)


def reference_problems(
    references: ReferenceLists,
    datasets: Mapping[str, Dataset],
    n_references: int,
    seeds: Sequence[int],
) -> Iterator[str]:
    """Say what hinders the use of references: too few, twice the same, missing, not good images.

    Yields
    ------
    str
        One sentence per problem; nothing if the first `n_references` of every draw can be used.
    """
    for name, dataset in datasets.items():
        for product in dataset.products:
            usable = {relative_path(dataset, s) for s in pool_of(dataset, product, references.pool)}
            found = references.draws.get(name, {}).get(product, {})
            draws = {seed: found.get(seed, ()) for seed in seeds}
            short = [seed for seed, draw in draws.items() if len(draw) < n_references]
            if short:
                yield (
                    f"references of `{name}/{product}` must be {n_references} or more, got "
                    f"{len(draws[short[0]])} for seed {', '.join(map(str, short))}; add images, "
                    f"or use fewer shots{_other_pool(references.pool)}"
                )
            for seed, draw in draws.items():
                what = f"references of `{name}/{product}`, seed {seed},"
                yield from _path_problems(draw[:n_references], usable, dataset, references, what)


def judged_samples(dataset: Dataset, product: str, draw: Sequence[str]) -> list[Sample]:
    """Return the test images of a draw: the product's test split without the draw's images.

    All K of a seed share them, so `draw` is as long as the largest K.
    """
    samples = dataset.of(product).select(split="test")
    return [sample for sample in samples if relative_path(dataset, sample) not in draw]


def _draw(dataset: Dataset, product: str, seed: int, n_references: int, pool: str) -> Iterator[str]:
    samples = pool_of(dataset, product, pool)
    paths = sorted(relative_path(dataset, sample) for sample in samples)
    digest = hashlib.sha256(f"{product}\n{seed}".encode(errors="surrogateescape")).digest()
    order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(len(paths))
    return (paths[index] for index in order[:n_references])


def _path_problems(
    draw: Sequence[str], usable: set[str], dataset: Dataset, references: ReferenceLists, what: str
) -> Iterator[str]:
    kind = "good training image" if references.pool == "train" else "good image"
    for index, path in enumerate(draw):
        inside = PurePosixPath(path)
        if path in draw[:index]:
            yield f"{what} must be different images, `{path}` is named twice; name another"
        elif inside.is_absolute() or ".." in inside.parts or "\\" in path:
            yield f"{what} must lie inside the data set `{dataset.root}`, got `{path}`"
        elif not (dataset.root / path).is_file():
            yield f"{what} must be existing files, `{dataset.root / path}` is none"
        elif path not in usable:
            yield (
                f"{what} must each be a {kind} of the product, `{path}` is none"
                f"{_other_pool(references.pool)}"
            )


def _other_pool(pool: str) -> str:
    return ", or draw with `--pool good`" if pool == "train" else ""


def _parse_pool(fields: Mapping[str, Any]) -> str:
    version = take(fields, "schema", int, DatasetError)
    if version != _SCHEMA_VERSION:
        raise DatasetError(f"`schema` must be {_SCHEMA_VERSION}, got {version}")
    pool = take(fields, "pool", str, DatasetError)
    if pool not in POOLS:
        raise DatasetError(f"`pool` must be one of {', '.join(POOLS)}, got {pool!r}")
    return pool


def _parse_draws(fields: Mapping[str, Any]) -> Draws:
    draws: dict[str, dict[str, dict[int, tuple[str, ...]]]] = {}
    datasets = take(fields, "datasets", dict, DatasetError)
    for name in datasets:
        products = take(datasets, name, dict, DatasetError)
        draws[name] = {}
        for product in products:
            seeds = take(products, product, dict, DatasetError)
            draws[name][product] = {_seed(key): _paths(seeds, key) for key in seeds}
    return draws


def _seed(key: str) -> int:
    if not (key.isascii() and key.isdecimal()):
        raise DatasetError(f"a seed must be 0 or a positive number, got {key!r}")
    return int(key)


def _paths(seeds: Mapping[str, Any], key: str) -> tuple[str, ...]:
    paths = take(seeds, key, list, DatasetError)
    if not all(isinstance(path, str) for path in paths):
        raise DatasetError(f"the references of seed {key} must be paths, got {paths!r:.80}")
    return tuple(paths)
