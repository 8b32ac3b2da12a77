"""Episodes: what they hold, how often, and products that cannot make one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cff_edge.datasets import Sample
from cff_edge.episodes import N_REFERENCES, Episode, EpisodePool
from cff_runtime.errors import DatasetError

ROOT = Path("/data/parts")
N_DRAWS = 1500


def _images(product: str, split: str, defect: str, n: int, root: Path = ROOT) -> list[Sample]:
    folder = root / product / split / defect
    return [Sample(folder / f"{i}.png", product, split, defect, None) for i in range(n)]


def _labelled(product: str, n_good: int, n_defective: int, root: Path = ROOT) -> list[Sample]:
    defective = _images(product, "test", "scratch", n_defective, root)
    return defective + _images(product, "test", "good", n_good, root)


def _normals(product: str, n: int, root: Path = ROOT) -> list[Sample]:
    return _images(product, "train", "good", n, root)


def _draws(pool: EpisodePool, n_queries: int = 5, n: int = N_DRAWS, seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    return [pool.draw(rng, n_queries) for _ in range(n)]


def _shares(values: Sequence[object]) -> dict[object, float]:
    return {value: n / len(values) for value, n in Counter(values).items()}


def _near(share: float) -> object:
    """Within 4.5 standard deviations of a share of the draws."""
    return pytest.approx(share, abs=4.5 * np.sqrt(share * (1 - share) / N_DRAWS))


@pytest.fixture
def pool() -> EpisodePool:
    """Two products with images to spare."""
    samples = _labelled("ring", 9, 8) + _labelled("nut", 6, 20)
    return EpisodePool(samples, _normals("ring", 12) + _normals("nut", 7), [ROOT])


def test_an_episode_is_of_one_product_and_holds_no_image_twice(pool: EpisodePool) -> None:
    for episode in _draws(pool, n=400):
        assert len({sample.product for sample in episode.samples}) == 1
        paths = [sample.path for sample in episode.samples]
        assert len(set(paths)) == len(paths)
        assert episode.samples == (*episode.references, episode.control, *episode.queries)


def test_references_and_control_are_normals_and_queries_are_samples(pool: EpisodePool) -> None:
    for episode in _draws(pool, n=400):
        assert {(s.split, s.defect) for s in (*episode.references, episode.control)} == {
            ("train", "good")
        }
        assert {s.split for s in episode.queries} == {"test"}
        # defective ones first: three of five
        assert [s.is_defective for s in episode.queries] == [True] * 3 + [False] * 2


def test_every_image_is_drawn_evenly(pool: EpisodePool) -> None:
    of_ring = [e for e in _draws(pool, n=4 * N_DRAWS) if e.control.product == "ring"]
    assert len(of_ring) > N_DRAWS  # so that `_near` allows enough
    controls = _shares([episode.control.path.stem for episode in of_ring])
    assert controls == {str(n): _near(1 / 12) for n in range(12)}
    for at, n_images in ((0, 8), (4, 9)):  # a defective and a good query
        shares = _shares([episode.queries[at].path.stem for episode in of_ring])
        assert shares == {str(n): _near(1 / n_images) for n in range(n_images)}


@pytest.mark.parametrize(
    ("n_normals", "expected"),
    [
        (2, {1: 1.0}),
        (3, {1: 1 / 3, 2: 2 / 3}),
        (4, {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}),  # one is the control
        (5, {1: 1 / 3, 2: 1 / 3, 4: 1 / 3}),
        (40, {1: 1 / 3, 2: 1 / 3, 4: 1 / 3}),
    ],
)
def test_k_is_drawn_evenly_as_far_as_the_good_images_go(
    n_normals: int, expected: dict[int, float]
) -> None:
    assert N_REFERENCES == (1, 2, 4)
    pool = EpisodePool(_labelled("ring", 3, 3), _normals("ring", n_normals), [ROOT])
    shares = _shares([len(episode.references) for episode in _draws(pool)])
    assert shares == {k: _near(share) for k, share in expected.items()}


@pytest.mark.parametrize(
    ("n_queries", "n_defective", "n_good"),
    [(1, 1, 0), (2, 2, 0), (3, 2, 1), (5, 3, 2), (7, 5, 2), (10, 6, 4), (15, 8, 6), (30, 8, 9)],
)
def test_six_in_ten_queries_are_defective_as_far_as_there_are_images(
    n_queries: int, n_defective: int, n_good: int
) -> None:
    pool = EpisodePool(_labelled("ring", 9, 8), _normals("ring", 5), [ROOT])
    for episode in _draws(pool, n_queries, n=30):
        kinds = Counter(sample.is_defective for sample in episode.queries)
        assert (kinds[True], kinds[False]) == (n_defective, n_good)


# --- where the good images come from


@pytest.mark.parametrize("n_normals", [0, 1])
def test_good_samples_serve_where_normals_are_too_few(n_normals: int) -> None:
    pool = EpisodePool(_labelled("ring", 4, 3), _normals("ring", n_normals), [ROOT])
    n_references = set()
    for episode in _draws(pool, n=200):
        good = [s for s in episode.queries if not s.is_defective]
        assert all(s.split == "test" for s in episode.samples)
        assert len({s.path for s in episode.samples}) == len(episode.samples)
        # of four, what references and control leave
        assert len(good) == min(2, 4 - len(episode.references) - 1)
        n_references.add(len(episode.references))
    assert n_references == {1, 2, 3}


def test_an_image_of_both_splits_is_no_query_beside_itself() -> None:
    # as `meta.json` may list it
    samples = _labelled("ring", 3, 3)
    normals = [Sample(s.path, "ring", "train", "good", None) for s in samples[3:]]
    for episode in _draws(EpisodePool(samples, normals, [ROOT]), n=100):
        paths = [sample.path for sample in episode.samples]
        assert len(set(paths)) == len(paths)


def test_products_without_enough_images_are_left_out() -> None:
    samples = [
        *_labelled("ring", 0, 3),
        *_labelled("nut", 1, 3),  # and a normal: two, but of different kinds
        *_labelled("cap", 5, 0),
        *_labelled("bolt", 2, 1),
        *_labelled("disc", 0, 1),
    ]
    normals = [*_normals("ring", 1), *_normals("nut", 1), *_normals("cap", 5), *_normals("disc", 2)]
    products = {e.control.product for e in _draws(EpisodePool(samples, normals, [ROOT]), n=100)}
    assert products == {"bolt", "disc"}


@pytest.mark.parametrize(
    ("samples", "normals"),
    [
        (_labelled("ring", 1, 3), _normals("ring", 1)),
        (_labelled("ring", 1, 3), _normals("nut", 9)),
        (_labelled("ring", 9, 0), _normals("ring", 9)),
        ([], []),
    ],
)
def test_there_must_be_a_product_to_train_on(samples: list[Sample], normals: list[Sample]) -> None:
    with pytest.raises(DatasetError, match=r"two good images beside a def.*calibrator_map` to te"):
        EpisodePool(samples, normals, [ROOT])


# --- data sets


def _twelve_and_one(first: Path, second: Path) -> tuple[list[Sample], list[Sample]]:
    """Images of twelve products in a data set, of one in another."""
    names = [f"part {n}" for n in range(12)]
    samples = [s for name in names for s in _labelled(name, 2, 2, first)]
    return samples + _labelled("cable", 2, 2, second), _normals("cable", 3, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("/data/many", "/data/one"), ("/data", "/data/one"), ("/data/many", "/data")],
)
def test_data_sets_are_drawn_evenly_then_their_products(first: str, second: str) -> None:
    samples, normals = _twelve_and_one(Path(first), Path(second))
    pool = EpisodePool(samples, normals, [Path(first), Path(second)])
    shares = _shares([episode.control.product for episode in _draws(pool)])
    assert shares.pop("cable") == _near(1 / 2)
    assert shares == {f"part {n}": _near(1 / 24) for n in range(12)}


def test_a_data_set_given_as_a_dot_is_one_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many").mkdir()
    monkeypatch.chdir(tmp_path / "many")
    # `read_dataset` resolves such roots
    samples, normals = _twelve_and_one(Path.cwd(), Path("..") / "one")
    pool = EpisodePool(samples, normals, [Path(), Path("..") / "one"])
    products = [episode.control.product for episode in _draws(pool)]
    assert _shares(products)["cable"] == _near(1 / 2)


def test_without_roots_all_products_are_drawn_evenly() -> None:
    samples, normals = _twelve_and_one(ROOT, ROOT)
    shares = _shares([e.control.product for e in _draws(EpisodePool(samples, normals, []))])
    assert len(shares) == 13
    assert all(share == _near(1 / 13) for share in shares.values())


def test_products_of_one_name_in_two_data_sets_stay_apart() -> None:
    roots = [Path("/data/a"), Path("/data/b")]
    samples = [s for root in roots for s in _labelled("screw", 3, 3, root)]
    pool = EpisodePool(samples, _normals("screw", 4, roots[0]), roots)
    episodes = _draws(pool, n=200)
    folders = [{sample.path.parents[3] for sample in episode.samples} for episode in episodes]
    assert all(len(folder) == 1 for folder in folders)
    assert set.union(*folders) == {Path("/data/a"), Path("/data/b")}


# --- seeds


def test_the_generator_alone_decides(pool: EpisodePool) -> None:
    assert _draws(pool, n=20, seed=3) == _draws(pool, n=20, seed=3)
    assert _draws(pool, n=20, seed=3) != _draws(pool, n=20, seed=4)
    assert len(set(_draws(pool, n=20, seed=3))) == 20
