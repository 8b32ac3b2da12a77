"""Draws of references: nested, without replacement, independent of all but their inputs."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cff_edge.datasets import Dataset, read_dataset
from cff_edge.evaluation.references import (
    ReferenceLists,
    draw_references,
    judged_samples,
    reference_problems,
    relative_path,
)
from cff_runtime.errors import DatasetError, UsageError

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two products with 6 good training and 5 good test images each."""
    root: Path = tmp_path_factory.mktemp("drawn") / "parts"
    for product in ("nut", "screw"):
        for split, n_images in (("train", 6), ("test", 5)):
            folder = root / product / split / "good"
            folder.mkdir(parents=True)
            for index in range(n_images):
                Image.new("RGB", (16, 16)).save(folder / f"{index:03}.png")
        (root / product / "test" / "bent").mkdir()
        Image.new("RGB", (16, 16)).save(root / product / "test" / "bent" / "000.png")
    return read_dataset(root, require_masks=False)


def _draw(
    dataset: Dataset, n: int = 4, seeds: tuple[int, ...] = SEEDS, pool: str = "train"
) -> ReferenceLists:
    return draw_references({"parts": dataset}, n, seeds, pool)


def test_a_draw_is_the_permutation_of_a_hash(dataset: Dataset) -> None:
    good = [f"nut/train/good/{index:03}.png" for index in range(6)]
    for seed in SEEDS:
        digest = hashlib.sha256(f"nut\n{seed}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest, "little")).permutation(6)
        expected = tuple(good[index] for index in order[:4])
        assert _draw(dataset).of("parts", "nut", seed) == expected


def test_draws_are_nested_and_without_replacement(dataset: Dataset) -> None:
    longest = _draw(dataset, 6)
    for product in dataset.products:
        for seed in SEEDS:
            draw = longest.of("parts", product, seed)
            assert sorted(draw) == [f"{product}/train/good/{i:03}.png" for i in range(6)]
            for k in (1, 2, 4):
                assert _draw(dataset, k).of("parts", product, seed) == draw[:k]


def test_draws_depend_on_no_state_and_no_other_product(dataset: Dataset) -> None:
    np.random.seed(1)
    first = _draw(dataset)
    np.random.seed(2)
    assert _draw(dataset) == first
    alone = _draw(dataset.of("screw"), seeds=(2,))
    assert alone.of("parts", "screw", 2) == first.of("parts", "screw", 2)
    draws = [first.of("parts", p, seed)[0][-7:] for p in dataset.products for seed in SEEDS]
    assert len(set(draws)) > 1


def test_every_image_is_drawn_equally_often(dataset: Dataset) -> None:
    n_draws = 600
    lists = _draw(dataset, 1, tuple(range(n_draws)))
    counts = Counter(lists.of("parts", "nut", seed)[0] for seed in range(n_draws))
    assert len(counts) == 6
    # 100 expected each; five standard deviations of a binomial are 46
    assert max(abs(count - 100) for count in counts.values()) < 46


def test_pool_good_draws_from_both_splits_and_leaves_the_drawn_out_of_the_test(
    dataset: Dataset,
) -> None:
    lists = _draw(dataset, 11, (0,), pool="good")
    draw = lists.of("parts", "nut", 0)
    assert len(set(draw)) == 11
    assert {path.split("/")[1] for path in draw} == {"train", "test"}
    for n_references in (1, 4, 11):
        shortest = draw[:n_references]
        left = [relative_path(dataset, s) for s in judged_samples(dataset, "nut", shortest)]
        assert not set(left) & set(shortest)
        everything = {relative_path(dataset, s) for s in dataset.of("nut").select(split="test")}
        assert set(left) | (set(shortest) & everything) == everything


def test_lists_are_written_and_read(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    lists = _draw(dataset)
    lists.save(path)
    assert ReferenceLists.load(path) == lists
    fields = json.loads(path.read_text())
    assert fields["pool"] == "train"
    for draw in fields["datasets"]["parts"]["nut"].values():
        assert all((dataset.root / name).is_file() and name.startswith("nut/") for name in draw)
    assert lists.seeds() == SEEDS
    restricted = lists.restricted({"parts": dataset.of("nut"), "other": dataset})
    assert set(restricted.draws["parts"]) == {"nut"}
    assert set(restricted.draws) == {"parts"}


def _with(dataset: Dataset, *paths: str, pool: str = "train") -> list[str]:
    lists = ReferenceLists(pool, {"parts": {"nut": {0: paths}}})
    return list(reference_problems(lists, {"parts": dataset.of("nut")}, 2, (0,)))


def test_sound_references_have_no_problems(dataset: Dataset) -> None:
    assert _with(dataset, "nut/train/good/000.png", "nut/train/good/001.png") == []
    assert _with(dataset, "nut/test/good/000.png", "nut/train/good/1", pool="good") != []
    both = ("nut/test/good/000.png", "nut/train/good/001.png")
    assert _with(dataset, *both, pool="good") == []
    # what lies beyond the largest K is not looked at
    assert _with(dataset, "nut/train/good/000.png", "nut/train/good/001.png", "/no") == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (None, "must be 2 or more, got 1"),
        ("nut/train/good/000.png", "is named twice"),
        ("nut/train/good/099.png", "must be existing files"),
        ("../elsewhere.png", "must lie inside the data set"),
        ("/etc/hostname", "must lie inside the data set"),
        ("nut\\train\\good\\001.png", "must lie inside the data set"),
        ("nut/test/good/000.png", "must each be a good training image"),
        ("nut/test/bent/000.png", "must each be a good training image"),
        ("screw/train/good/000.png", "must each be a good training image"),
    ],
)
def test_unfit_references_are_named(dataset: Dataset, second: str | None, message: str) -> None:
    problems = _with(dataset, "nut/train/good/000.png", *([second] if second else []))
    assert len(problems) == 1
    assert message in problems[0]
    assert "`parts/nut`" in problems[0]
    assert "seed 0" in problems[0]
    assert second is None or second in problems[0]


def test_a_missing_draw_is_an_error(dataset: Dataset) -> None:
    lists = _draw(dataset)
    for names in (("other", "nut", 0), ("parts", "bolt", 0), ("parts", "nut", 9)):
        with pytest.raises(DatasetError, match="they have none"):
            lists.of(*names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "field `schema` must be present"),
        ('{"schema": 2, "pool": "train", "datasets": {}}', "`schema` must be 1, got 2"),
        ('{"schema": 1, "pool": "all", "datasets": {}}', "`pool` must be one of train, good"),
        ('{"schema": 1, "pool": "good", "datasets": []}', "`datasets` must be of type dict"),
        ('{"schema": 1, "pool": "good", "datasets": {"a": 1}}', "`a` must be of type dict"),
        (
            '{"schema": 1, "pool": "good", "datasets": {"a": {"b": {"-1": []}}}}',
            "a seed must be 0 or a positive number",
        ),
        (
            '{"schema": 1, "pool": "good", "datasets": {"a": {"b": {"1": [2]}}}}',
            "the references of seed 1 must be paths",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "references.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match="must be a list of references") as caught:
        ReferenceLists.load(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be an existing file"):
        ReferenceLists.load(tmp_path / "absent.json")
