"""Choosing the training samples that a configuration names."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cff_edge.config import Config
from cff_edge.datasets import Sample, read_dataset, require_product
from cff_runtime.errors import UsageError


def select_samples(config: Config) -> list[Sample]:
    """Return the labelled (test split) images of the configured data sets and products.

    Raises
    ------
    UsageError
        If no data set is named, or a product is not in any of them.
    DatasetError
        If a data set is damaged.
    """
    data = config.data
    if not data.roots:
        raise UsageError("`--data` must name at least one data set")
    datasets = [read_dataset(Path(root), require_masks=False) for root in data.roots]
    known = sorted({s.product for dataset in datasets for s in dataset.select(split="test")})
    for name in (*data.products, *data.exclude):
        require_product(name, known)
    chosen = set(data.products or known) - set(data.exclude)
    by_product: dict[str, list[Sample]] = defaultdict(list)
    for dataset in datasets:
        names = [name for name in dataset.products if name in chosen]
        if names:  # again, as only the products trained on need masks
            labelled = read_dataset(dataset.root, dataset.layout, names)
            for sample in labelled.select(split="test"):
                by_product[sample.product].append(sample)
    rng = np.random.default_rng(config.train.seed)
    return [
        sample
        for product in sorted(by_product)
        for sample in _draw(by_product[product], data.max_per_product, rng)
    ]


def select_normals(config: Config, samples: Sequence[Sample]) -> list[Sample]:
    """Return good training images of the samples' products, to fill memory banks in episodes.

    At most `data.max_per_product` of each product; none for a product without a train split.

    Raises
    ------
    DatasetError
        If a data set is damaged.
    """
    by_product: dict[str, list[Sample]] = {sample.product: [] for sample in samples}
    for root in config.data.roots:
        for sample in read_dataset(Path(root), require_masks=False).select("train", False):
            if sample.product in by_product:
                by_product[sample.product].append(sample)
    rng = np.random.default_rng(config.train.seed)
    return [
        sample
        for product in sorted(by_product)
        for sample in _draw(by_product[product], config.data.max_per_product, rng)
    ]


def select_one_products_normals(config: Config) -> list[Sample]:
    """Return the good training images of the one product that a configuration names.

    Raises
    ------
    UsageError
        If no data set is named, a product is unknown, or there is not one product alone.
    DatasetError
        If a data set is damaged.
    """
    data = config.data
    if not data.roots:
        raise UsageError("`--data` must name at least one data set")
    datasets = [read_dataset(Path(root), require_masks=False) for root in data.roots]
    known = sorted({product for dataset in datasets for product in dataset.products})
    for name in (*data.products, *data.exclude):
        require_product(name, known)
    chosen = sorted(set(data.products or known) - set(data.exclude))
    if len(chosen) != 1:
        raise UsageError(
            f"`--products` must name one product for {config.model.name}, which has one model per "
            f"product, got {', '.join(chosen) or 'none'}"
        )
    normals = [s for d in datasets for s in d.select("train", False) if s.product == chosen[0]]
    return _draw(normals, data.max_per_product, np.random.default_rng(config.train.seed))


def _draw(samples: list[Sample], limit: int, rng: np.random.Generator) -> list[Sample]:
    if not limit or len(samples) <= limit:
        return samples
    chosen = sorted(rng.permutation(len(samples))[:limit])
    return [samples[index] for index in chosen]
