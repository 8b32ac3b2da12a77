"""Which labelled images a configuration selects, and which good ones for memory banks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cff_edge.config import Config
from cff_edge.datasets import Sample
from cff_edge.selection import select_normals, select_samples
from cff_runtime.errors import DatasetError, UsageError

MakeConfig = Callable[..., Config]


def _names(samples: list[Sample]) -> list[str]:
    return [f"{s.product}/{s.split}/{s.defect}/{s.path.stem}" for s in samples]


def _everything() -> list[str]:
    ring = [f"ring/test/bar/00{n}" for n in range(3)] + [f"ring/test/good/00{n}" for n in range(4)]
    washer = [f"washer/test/bar/00{n}" for n in range(2)]
    return ring + washer + [f"washer/test/good/00{n}" for n in range(2)]


def test_all_labelled_images_and_no_others(tiny_dataset: Path, small_config: MakeConfig) -> None:
    samples = select_samples(small_config(f"data.roots={tiny_dataset}"))
    assert _names(samples) == _everything()
    assert all((sample.mask is not None) == sample.is_defective for sample in samples)


@pytest.mark.parametrize(
    "override", ["data.products=washer", "data.exclude=ring", 'data.products=["washer"]']
)
def test_products_are_chosen(tiny_dataset: Path, small_config: MakeConfig, override: str) -> None:
    samples = select_samples(small_config(f"data.roots={tiny_dataset}", override))
    assert _names(samples) == _everything()[7:]


def test_exclusion_beats_inclusion(tiny_dataset: Path, small_config: MakeConfig) -> None:
    both = small_config(
        f"data.roots={tiny_dataset}", 'data.products=["ring", "washer"]', "data.exclude=ring"
    )
    assert {sample.product for sample in select_samples(both)} == {"washer"}


@pytest.mark.parametrize("key", ["products", "exclude"])
def test_unknown_products_are_refused(
    tiny_dataset: Path, small_config: MakeConfig, key: str
) -> None:
    config = small_config(f"data.roots={tiny_dataset}", f"data.{key}=rings")
    with pytest.raises(UsageError, match="product must be one of ring, washer, got 'rings'"):
        select_samples(config)


def test_several_data_sets_are_joined(
    tiny_dataset: Path, small_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "nut").symlink_to(tiny_dataset / "ring")
    samples = select_samples(small_config(f'data.roots=["{tiny_dataset}", "{tmp_path / "more"}"]'))
    nuts = [name.replace("ring", "nut") for name in _everything()[:7]]
    assert _names(samples) == sorted(nuts + _everything(), key=lambda name: name.split("/")[0])


def test_at_most_so_many_per_product_by_the_seed(
    tiny_dataset: Path, small_config: MakeConfig
) -> None:
    def draw(seed: int) -> list[str]:
        return _names(
            select_samples(
                small_config(
                    f"data.roots={tiny_dataset}", "data.max_per_product=3", f"train.seed={seed}"
                )
            )
        )

    draws = [draw(seed) for seed in range(6)]
    assert draws[0] == draw(0)
    assert len({tuple(names) for names in draws}) > 1
    for names in draws:
        assert [name.split("/")[0] for name in names] == ["ring"] * 3 + ["washer"] * 3
        assert len(set(names)) == 6
        assert names == sorted(names)
    assert {name for names in draws for name in names} == set(_everything())
    loose = small_config(f"data.roots={tiny_dataset}", "data.max_per_product=7")
    assert _names(select_samples(loose)) == _everything()


def test_a_data_set_must_be_named_and_exist(tmp_path: Path, small_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match="`--data` must name at least one data set"):
        select_samples(small_config())
    with pytest.raises(UsageError, match="absent` must be an existing folder"):
        select_samples(small_config(f"data.roots={tmp_path / 'absent'}"))


def test_only_chosen_products_need_masks(
    write_dataset: Callable[[Path], Path], small_config: MakeConfig, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path)
    (root / "ring" / "ground_truth" / "bar" / "001_mask.png").unlink()
    samples = select_samples(small_config(f"data.roots={root}", "data.exclude=ring"))
    assert _names(samples) == _everything()[7:]
    with pytest.raises(DatasetError, match=r"bar/001\.png` must have a mask"):
        select_samples(small_config(f"data.roots={root}"))


# --- normals, for memory banks


def _normals(config: Config) -> list[str]:
    return _names(select_normals(config, select_samples(config)))


def _of(product: str, *numbers: int) -> list[str]:
    return [f"{product}/train/good/00{number}" for number in numbers]


def test_normals_are_the_good_training_images(tiny_dataset: Path, small_config: MakeConfig) -> None:
    config = small_config(f"data.roots={tiny_dataset}")
    assert _normals(config) == _of("ring", 0, 1) + _of("washer", 0, 1)
    assert all(sample.path.is_file() for sample in select_normals(config, select_samples(config)))


def test_normals_are_of_the_samples_products(tiny_dataset: Path, small_config: MakeConfig) -> None:
    config = small_config(f"data.roots={tiny_dataset}", "data.exclude=ring")
    assert _normals(config) == _of("washer", 0, 1)
    assert select_normals(config, []) == []


def test_normals_of_several_data_sets_are_joined(
    tiny_dataset: Path, small_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "nut").symlink_to(tiny_dataset / "ring")
    config = small_config(f'data.roots=["{tiny_dataset}", "{tmp_path}"]', "data.exclude=ring")
    assert _normals(config) == _of("nut", 0, 1) + _of("washer", 0, 1)


def test_defective_training_images_are_no_normals(
    write_dataset: Callable[[Path], Path], small_config: MakeConfig, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path)
    shutil.copytree(root / "ring" / "test" / "bar", root / "ring" / "train" / "bar")
    normals = select_normals(small_config(f"data.roots={root}"), _ring(root))
    assert _names(normals) == _of("ring", 0, 1)


def _ring(root: Path) -> list[Sample]:
    return [Sample(root / "ring" / "test" / "good" / "000.png", "ring", "test", "good", None)]


def test_at_most_so_many_normals_per_product_by_the_seed(
    tiny_dataset: Path, small_config: MakeConfig
) -> None:
    def draw(limit: int, seed: int) -> list[str]:
        limits = (f"data.max_per_product={limit}", f"train.seed={seed}")
        return _normals(small_config(f"data.roots={tiny_dataset}", *limits))

    draws = [draw(1, seed) for seed in range(8)]
    assert draws[3] == draw(1, 3)
    assert all([name.split("/")[0] for name in names] == ["ring", "washer"] for names in draws)
    assert {name for names in draws for name in names} == {
        *_of("ring", 0, 1),
        *_of("washer", 0, 1),
    }
    assert draw(2, 0) == draw(7, 0) == _of("ring", 0, 1) + _of("washer", 0, 1)


def test_plain_folders_have_no_normals(
    write_dataset: Callable[[Path], Path], small_config: MakeConfig, tmp_path: Path
) -> None:
    parts, root = write_dataset(tmp_path / "parts"), tmp_path / "plain"
    for product in ("ring", "washer"):
        shutil.copytree(parts / product / "test", root / product)
        shutil.copytree(parts / product / "ground_truth", root / product / "masks")
    config = small_config(f"data.roots={root}")
    assert len(select_samples(config)) == 11
    assert _normals(config) == []


def test_a_damaged_data_set_has_no_normals(tmp_path: Path, small_config: MakeConfig) -> None:
    with pytest.raises(DatasetError, match="must hold images"):
        select_normals(small_config(f"data.roots={tmp_path}"), [])
