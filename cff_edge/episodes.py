"""Few-shot tasks from labelled products: what the calibrators are trained on.

An episode is the job in small: references fill the memory bank, and images of the same product are
judged by it. Data sets are drawn evenly, then the products of the one drawn, so that many products
of one kind do not outweigh the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cff_edge.datasets import Sample
from cff_runtime.errors import DatasetError

N_REFERENCES = (1, 2, 4)  # K of an episode, drawn evenly: the shots of the paper
_DEFECTIVE_SHARE = 0.6  # of the queries


@dataclass(frozen=True)
class Episode:
    """One task; all images are of one product and none is there twice.

    Attributes
    ----------
    references : tuple of K Sample
        Good parts for the memory bank.
    control : Sample
        One more good part, whose map says how large distances are without a defect.
    queries : tuple of Sample
        Images to judge, defective ones first.
    """

    references: tuple[Sample, ...]
    control: Sample
    queries: tuple[Sample, ...]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All images: references, control, queries."""
        return (*self.references, self.control, *self.queries)


class EpisodePool:
    """Draws episodes.

    Parameters
    ----------
    samples : sequence of Sample
        Labelled images: the queries.
    normals : sequence of Sample
        Good images for references and controls. Products without any here take their good samples.
    roots : sequence of Path
        Folders of the data sets, to tell which products belong together.

    Raises
    ------
    DatasetError
        If no product has two good images beside a defective one.
    """

    def __init__(
        self, samples: Sequence[Sample], normals: Sequence[Sample], roots: Sequence[Path]
    ) -> None:
        self._defective = _by_product([s for s in samples if s.is_defective])
        self._good = _by_product([s for s in samples if not s.is_defective])
        self._normals = {**self._good, **_by_product(normals)}
        groups: dict[Path | str, list[str]] = {}
        for product, defective in self._defective.items():
            if len(self._normals.get(product, ())) >= 2:
                path = defective[0].path
                root = next((root for root in roots if path.is_relative_to(root)), product)
                groups.setdefault(root, []).append(product)
        if not groups:
            raise DatasetError(
                "training on memory banks needs a product with two good images beside a defective "
                "one, there is none; add good images or set `train.calibrator_map` to text"
            )
        self._groups = list(groups.values())

    def draw(self, rng: np.random.Generator, n_queries: int) -> Episode:
        """Draw an episode of at most `n_queries` queries, six in ten of them defective."""
        products = self._groups[rng.integers(len(self._groups))]
        product = products[rng.integers(len(products))]
        normals = self._normals[product]
        n_references = min(int(rng.choice(N_REFERENCES)), len(normals) - 1)
        *references, control = _draw(normals, n_references + 1, rng)
        taken = {sample.path for sample in (*references, control)}
        n_defective = int(np.ceil(_DEFECTIVE_SHARE * n_queries))
        good = [s for s in self._good.get(product, ()) if s.path not in taken]
        queries = _draw(self._defective[product], n_defective, rng)
        queries += _draw(good, n_queries - n_defective, rng)
        return Episode(tuple(references), control, tuple(queries))


def _by_product(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    products: dict[str, list[Sample]] = {}
    for sample in samples:
        products.setdefault(sample.product, []).append(sample)
    return products


def _draw(samples: Sequence[Sample], n: int, rng: np.random.Generator) -> list[Sample]:
    """Draw at most n samples without replacement."""
    return [samples[index] for index in rng.permutation(len(samples))[:n]]
