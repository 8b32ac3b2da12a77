"""Choosing the training samples that a configuration names."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from cff_edge.config import Config
from cff_edge.datasets import Sample, read_dataset
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
    samples: list[Sample] = []
    for root in data.roots:
        samples += read_dataset(Path(root)).select(split="test")
    known = sorted({sample.product for sample in samples})
    unknown = [name for name in (*data.products, *data.exclude) if name not in known]
    if unknown:
        raise UsageError(f"product must be one of {', '.join(known)}, got {unknown[0]!r}")
    by_product: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if (not data.products or sample.product in data.products) and (
            sample.product not in data.exclude
        ):
            by_product[sample.product].append(sample)
    rng = np.random.default_rng(config.train.seed)
    return [
        sample
        for product in sorted(by_product)
        for sample in _draw(by_product[product], data.max_per_product, rng)
    ]


def _draw(samples: list[Sample], limit: int, rng: np.random.Generator) -> list[Sample]:
    if not limit or len(samples) <= limit:
        return samples
    chosen = sorted(rng.permutation(len(samples))[:limit])
    return [samples[index] for index in chosen]
