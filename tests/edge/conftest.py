"""A drawn data set in MVTec AD layout and a small backbone, for what trains."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import CONFIG_NAME, save_head
from cff_edge.config import Config, load_config
from cff_edge.datasets import Sample, read_dataset
from cff_edge.heads import Head
from cff_edge.training import train

DrawPart = Callable[..., NDArray[np.uint8]]
SIZE_PX = 64


@pytest.fixture(scope="session", autouse=True)
def _one_thread(_few_threads: None) -> Iterator[None]:
    """Models as small as these lose by a second thread, and much on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def _write_product(folder: Path, draw_part: DrawPart, seed: int, n_good: int, n_bad: int) -> None:
    bar = np.zeros((120, 150), np.uint8)
    bar[52:60, 80:115] = 255  # where `draw_part` puts the defect
    for split, n_images in (("train", 2), ("test", n_good)):
        (folder / split / "good").mkdir(parents=True)
        for index in range(n_images):
            seed += 1
            Image.fromarray(draw_part(seed)).save(folder / split / "good" / f"{index:03}.png")
    (folder / "test" / "bar").mkdir()
    (folder / "ground_truth" / "bar").mkdir(parents=True)
    for index in range(n_bad):
        seed += 1
        Image.fromarray(draw_part(seed, True)).save(folder / "test" / "bar" / f"{index:03}.png")
        Image.fromarray(bar).save(folder / "ground_truth" / "bar" / f"{index:03}_mask.png")


@pytest.fixture
def write_dataset(draw_part: DrawPart) -> Callable[[Path], Path]:
    """Return a function that draws a data set of 11 labelled images of two products."""

    def write(root: Path) -> Path:
        _write_product(root / "ring", draw_part, 0, n_good=4, n_bad=3)
        _write_product(root / "washer", draw_part, 1000, n_good=2, n_bad=2)
        return root

    return write


@pytest.fixture(scope="session")
def tiny_dataset(draw_part: DrawPart, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data set; read-only."""
    root: Path = tmp_path_factory.mktemp("tiny") / "data"
    _write_product(root / "ring", draw_part, 0, n_good=4, n_bad=3)
    _write_product(root / "washer", draw_part, 1000, n_good=2, n_bad=2)
    return root


@pytest.fixture(scope="session")
def tiny_samples(tiny_dataset: Path) -> list[Sample]:
    return read_dataset(tiny_dataset).select(split="test")


@pytest.fixture(scope="session")
def small_backbone() -> Backbone:
    """EfficientNet-Lite0 at 64 px: grids 8, 8, 4 and 2."""
    return load_backbone("efficientnet-lite0", "imagenet", SIZE_PX, joint_dim=32)


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Config]:
    """Return the factory ``small_config("section.key=value", ...)`` for `small_backbone`."""

    def make(*overrides: str) -> Config:
        small = (f"backbone.image_size={SIZE_PX}", "backbone.joint_dim=32", "train.batch_size=4")
        return load_config(None, [*small, "train.device=cpu", *overrides])

    return make


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache that runs on the same images share."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def train_small(
    small_backbone: Backbone,
    small_config: Callable[..., Config],
    tiny_samples: list[Sample],
    shared_cache: Path,
    tmp_path: Path,
) -> Callable[..., Head]:
    """Return ``train_small(*overrides, run="run", resume=False, samples=..., normals=())``."""

    def run(
        *overrides: str,
        run: str = "run",
        resume: bool = False,
        samples: Sequence[Sample] | None = None,
        normals: Sequence[Sample] = (),
    ) -> Head:
        config = small_config("train.projector_epochs=2", "train.calibrator_epochs=2", *overrides)
        images = tiny_samples if samples is None else samples
        return train(config, small_backbone, images, tmp_path / run, shared_cache, resume, normals)

    return run


@pytest.fixture
def interrupted() -> Callable[[type, str, int], AbstractContextManager[None]]:
    """Return ``with interrupted(owner, method, n)``: its n-th call raises KeyboardInterrupt.

    The interruption must come and is caught.
    """

    @contextmanager
    def context(owner: type, method: str, at_call: int) -> Iterator[None]:
        n_calls = 0
        original = getattr(owner, method)

        def interrupt(*args: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == at_call:
                raise KeyboardInterrupt
            return original(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, method, interrupt)
            with pytest.raises(KeyboardInterrupt):
                yield
        assert n_calls == at_call

    return context


@pytest.fixture(scope="session")
def lite_run(
    lite_backbone: Backbone,
    lite_config: Config,
    make_head: Callable[..., Head],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The run that `lite_bundle` could have been exported from; read-only."""
    run: Path = tmp_path_factory.mktemp("runs") / "lite"
    save_head(run, make_head(lite_backbone, "affine"), lite_backbone.info, ["washer"])
    (run / CONFIG_NAME).write_text(lite_config.to_toml())
    return run
