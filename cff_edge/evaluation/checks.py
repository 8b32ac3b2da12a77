"""Finding everything wrong with a data set before any long work.

All problems are collected, so that a data set is mended once and not file by file.
"""

from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from cff_edge.datasets import Dataset, Sample, load_mask
from cff_edge.evaluation.references import ReferenceLists, reference_problems, relative_path
from cff_runtime.errors import CffError, DatasetError
from cff_runtime.imaging import load_image

_N_SHOWN = 10


def check_datasets(
    datasets: Mapping[str, Dataset],
    references: ReferenceLists,
    n_references: int,
    seeds: Sequence[int],
) -> None:
    """Check that products can be evaluated: enough images of every kind, masks, references.

    Only names are looked at, unless something is wrong; then all files are opened as well, so
    that one error tells everything.

    Parameters
    ----------
    datasets : mapping of str to Dataset
        By name.
    references : ReferenceLists
    n_references : int
        Largest K.
    seeds : sequence of int
        Draws that will be used.

    Raises
    ------
    DatasetError
        Naming the first ten problems and their number.
    """
    problems = [*_count_problems(datasets, references, n_references, seeds)]
    problems += reference_problems(references, datasets, n_references, seeds)
    if problems:
        problems += file_problems(_all_samples(datasets))
        raise_problems(problems)


def check_files(samples: Sequence[Sample]) -> None:
    """Open every image and mask, with a progress bar.

    Raises
    ------
    DatasetError
        Naming the first ten problems and their number.
    """
    raise_problems(list(file_problems(samples)))


def file_problems(samples: Sequence[Sample]) -> Iterator[str]:
    """Say which images and masks cannot be used.

    Yields
    ------
    str
        One sentence per problem.
    """
    for sample in tqdm(samples, desc="check", unit="image", disable=None):
        try:
            image = load_image(sample.path)
            mask = load_mask(sample, image.shape[0], image.shape[1])
        except CffError as error:
            yield f"{error}; replace the file, or leave the image out"
            continue
        if sample.mask is not None and not mask.any():
            yield (
                f"mask `{sample.mask}` must mark the defect of `{sample.path.name}`, it is empty; "
                "draw the mask, or leave the image out"
            )


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one error that names the first ten problems and their number, if there are any.

    Raises
    ------
    DatasetError
    """
    if not problems:
        return
    if len(problems) == 1:
        raise DatasetError(problems[0])
    lines = [f"{len(problems)} problems must be solved before anything is evaluated:"]
    lines += [f"  {problem}" for problem in problems[:_N_SHOWN]]
    if len(problems) > _N_SHOWN:
        lines.append(f"  and {len(problems) - _N_SHOWN} more")
    raise DatasetError("\n".join(lines))


def _count_problems(
    datasets: Mapping[str, Dataset],
    references: ReferenceLists,
    n_references: int,
    seeds: Sequence[int],
) -> Iterator[str]:
    """Say which products have no good or no defective test images, or no masks."""
    for name, dataset in datasets.items():
        for product in dataset.products:
            what = f"`{name}/{product}`"
            test = dataset.of(product).select(split="test")
            n_good = sum(not sample.is_defective for sample in test)
            if n_good == 0:
                yield f"{what} must have good test images, got none; add some"
            if n_good == len(test):
                yield f"{what} must have defective test images, got none; add some"
            for sample in test:
                if sample.is_defective and sample.mask is None:
                    yield (
                        f"defective image `{sample.path}` must have a mask, none was found; add "
                        "one, or leave the image out"
                    )
            for seed in seeds if n_good else ():
                drawn = set(
                    references.draws.get(name, {}).get(product, {}).get(seed, ())[:n_references]
                )
                good = (relative_path(dataset, s) for s in test if not s.is_defective)
                if drawn.issuperset(good):
                    yield (
                        f"{what} must have good test images besides the references, seed {seed} "
                        f"draws all {n_good}; add images, or use fewer shots"
                    )


def _all_samples(datasets: Mapping[str, Dataset]) -> list[Sample]:
    return [sample for dataset in datasets.values() for sample in dataset.samples]
