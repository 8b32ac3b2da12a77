"""What an evaluation is over: methods, data sets, references, shots and seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cff_edge.datasets import Dataset, read_dataset, require_product
from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.checks import check_datasets
from cff_edge.evaluation.methods import MethodSpec
from cff_edge.evaluation.references import POOLS, ReferenceLists, draw_references
from cff_runtime.errors import DatasetError, UsageError

DEFAULT_SEEDS = 5


@dataclass(frozen=True)
class Context:
    """Everything that decides what cells hold; can be pickled.

    Attributes
    ----------
    methods : tuple of MethodSpec
    datasets : mapping of str to Dataset
        By name; the products that are evaluated.
    references : ReferenceLists
    shots : tuple of int
        Values of K, ascending; 0 is zero-shot.
    seeds : tuple of int
    image_score : {'deployable', 'april_gan_transductive'}
        For methods with a text tower.
    out : Path
        Folder of results.
    cache : Path
        Folder of the feature cache.
    command : tuple of str
        For the provenance.
    """

    methods: tuple[MethodSpec, ...]
    datasets: Mapping[str, Dataset]
    references: ReferenceLists
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    image_score: str
    out: Path
    cache: Path
    command: tuple[str, ...]

    @property
    def n_references(self) -> int:
        """Images that a draw must hold, the largest K."""
        return self.shots[-1]

    def method(self, name: str) -> MethodSpec:
        """Return the method of that name."""
        return next(method for method in self.methods if method.name == name)

    def cells(self) -> Iterator[Cell]:
        """Yield all cells, method by method. Zero-shot needs no draw: the first seed is enough."""
        for method in self.methods:
            for name, dataset in self.datasets.items():
                for product in dataset.products:
                    for seed in self.seeds:
                        for k in self.shots:
                            if k > 0 or seed == self.seeds[0]:
                                yield Cell(method.name, name, product, k, seed)

    def has_pictures(self, cell: Cell) -> bool:
        """Whether the page shows pictures of a cell: those of the first draw and the largest K."""
        return cell.k == self.shots[-1] and cell.seed == self.seeds[0]


def read_datasets(roots: Sequence[Path], products: Sequence[str] = ()) -> dict[str, Dataset]:
    """Read the data sets' folders by name; no image is opened.

    Parameters
    ----------
    roots : sequence of Path
        In MVTec AD layout, VisA layout or plain folders; the folder's name is the data set's.
    products : sequence of str
        Only these; all if empty.

    Raises
    ------
    UsageError
        If a folder or product is not there, or two data sets have one name.
    DatasetError
        If nothing is found, or images and masks do not fit together.
    """
    datasets: dict[str, Dataset] = {}
    for root in roots:
        name = root.resolve().name
        if name in datasets:
            raise UsageError(
                f"data sets must have different names, got two folders `{name}`; rename one"
            )
        datasets[name] = read_dataset(root, require_masks=False)
    known = sorted({product for dataset in datasets.values() for product in dataset.products})
    for product in products:
        require_product(product, known)
    chosen = {}
    for name, dataset in datasets.items():
        names = [p for p in dataset.products if not products or p in products]
        if names:
            chosen[name] = read_dataset(dataset.root, dataset.layout, names, require_masks=False)
    return chosen


def choose_references(
    datasets: Mapping[str, Dataset],
    shots: Sequence[int],
    n_seeds: int | None,
    pool: str | None,
    file: Path | None,
) -> tuple[ReferenceLists, tuple[int, ...]]:
    """Draw references, or read them from a file, and check them and the data sets.

    Parameters
    ----------
    datasets : mapping of str to Dataset
    shots : sequence of int
    n_seeds : int or None
        None takes the file's seeds, or 5.
    pool : str or None
        None takes the file's, or ``train``.
    file : Path or None
        JSON of an earlier run or a peer.

    Returns
    -------
    ReferenceLists
        For these data sets and products only.
    tuple of int
        The seeds.

    Raises
    ------
    UsageError
        If `pool` is not the file's, or there is no file.
    DatasetError
        Naming everything that hinders the evaluation.
    """
    n_references = max(shots)
    if file is None:
        seeds = tuple(range(n_seeds or DEFAULT_SEEDS))
        references = draw_references(datasets, n_references, seeds, pool or POOLS[0])
    else:
        everything = ReferenceLists.load(file)
        if pool not in (None, everything.pool):
            raise UsageError(
                f"`--pool` must be that of `{file}`, {everything.pool}, got {pool}; leave it out"
            )
        references = everything.restricted(datasets)
        seeds = references.seeds()[:n_seeds]
        if not seeds or len(seeds) < (n_seeds or 1):
            raise DatasetError(
                f"`{file}` must hold {n_seeds or 1} or more seeds for every product evaluated, "
                f"got {len(seeds)}"
            )
    check_datasets(datasets, references, n_references, seeds)
    return references, seeds
