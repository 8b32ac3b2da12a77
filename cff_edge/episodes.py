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
_FEWEST_NORMALS = 2  # a reference and the control

Product = tuple[Path | None, str]  # folder of the data set, name: two data sets may share a name


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
        Good images for references and controls. Products with fewer than two here take their good
        samples.
    roots : sequence of Path
        Folders of the data sets, as given to `read_dataset`, to tell which products belong
        together. Images in none of them count as one data set.

    Raises
    ------
    DatasetError
        If no product has two good images beside a defective one.
    """

    def __init__(
        self, samples: Sequence[Sample], normals: Sequence[Sample], roots: Sequence[Path]
    ) -> None:
        folders = [*roots, *(root.resolve() for root in roots)]  # `read_dataset` may resolve them
        self._defective = _by_product([s for s in samples if s.is_defective], folders)
        self._good = _by_product([s for s in samples if not s.is_defective], folders)
        self._normals: dict[Product, list[Sample]] = {}
        groups: dict[Path | None, list[Product]] = {}
        given = _by_product(normals, folders)
        for product in self._defective:
            for images in (given.get(product, []), self._good.get(product, [])):
                if len(images) >= _FEWEST_NORMALS:
                    self._normals[product] = images
                    groups.setdefault(product[0], []).append(product)
                    break
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


def _by_product(samples: Sequence[Sample], folders: Sequence[Path]) -> dict[Product, list[Sample]]:
    products: dict[Product, list[Sample]] = {}
    for sample in samples:
        holding = [folder for folder in folders if sample.path.is_relative_to(folder)]
        root = max(holding, key=lambda folder: len(folder.parts), default=None)  # the nearest
        products.setdefault((root, sample.product), []).append(sample)
    return products


def _draw(samples: Sequence[Sample], n: int, rng: np.random.Generator) -> list[Sample]:
    """Draw at most n samples without replacement."""
    return [samples[index] for index in rng.permutation(len(samples))[:n]]
