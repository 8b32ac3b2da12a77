"""Image scores of methods with a text tower, and zero-shot cells."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file

from cff_edge.backbones import Backbone, load_backbone
from cff_edge.checkpoint import CONFIG_NAME, save_head
from cff_edge.config import Config, load_config
from cff_edge.detector import Detector
from cff_edge.evaluation.cells import Cell
from cff_edge.evaluation.context import Context, choose_references, read_datasets
from cff_edge.evaluation.methods import Judgement, open_method, parse_method
from cff_edge.evaluation.runner import applicable_cells, make_task, plan, run_all
from cff_edge.heads import Head
from cff_export import ExportSettings, export_bundle
from cff_runtime import Inspector
from cff_runtime.errors import UsageError
from cff_runtime.imaging import load_image
from cff_runtime.preprocessing import Preprocessing

SIZE_PX = 64
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": SIZE_PX,
        "layers": 4,
        "width": 48,
        "patch_size": 16,
        "head_width": 16,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


class Vit(NamedTuple):
    """A small vision transformer with a text tower, as a run and as its bundle."""

    backbone: Backbone
    head: Head
    config: Config
    run: Path
    bundle: Path
    overrides: tuple[str, ...]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vit]:
    folder = tmp_path_factory.mktemp("vit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setitem(factory._MODEL_CONFIGS, "tiny-eval", MODEL)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            weights = open_clip.create_model("tiny-eval").state_dict()
            save_file(weights, folder / "weights.safetensors")
            backbone = load_backbone(
                "open_clip:tiny-eval", str(folder / "weights.safetensors"), SIZE_PX
            )
            widths = [stage.width for stage in backbone.info.stages]
            head = Head(widths, backbone.info.joint_dim, "affine", "default").eval()
        overrides = (
            "backbone.name=open_clip:tiny-eval",
            f"backbone.weights={folder / 'weights.safetensors'}",
            f"backbone.image_size={SIZE_PX}",
            "train.device=cpu",
        )
        config = load_config(None, overrides)
        save_head(folder / "run", head, backbone.info, [])
        (folder / "run" / CONFIG_NAME).write_text(config.to_toml())
        settings = ExportSettings(("ring",))
        twin = load_backbone(
            "open_clip:tiny-eval", str(folder / "weights.safetensors"), SIZE_PX
        )  # export releases its text tower
        export_bundle(twin, head, config, folder / "bundle", settings)
        yield Vit(backbone, head, config, folder / "run", folder / "bundle", overrides)


@pytest.fixture
def context(vit: Vit, tiny_dataset: Path, tmp_path: Path) -> Context:
    datasets = read_datasets([tiny_dataset])
    references, seeds = choose_references(datasets, (0, 1, 2), 2, None, None)
    return Context(
        methods=(
            parse_method(f"run={vit.run}"),
            parse_method(f"bundle={vit.bundle}"),
            parse_method("raw=raw", vit.overrides),
        ),
        datasets=datasets,
        references=references,
        shots=(0, 1, 2),
        seeds=seeds,
        image_score="deployable",
        out=tmp_path,
        cache=tmp_path / "cache",
        command=("cff-eval",),
    )


def _judge(context: Context, method: str, k: int = 2, product: str = "ring") -> Judgement:
    task, _ = make_task(context, Cell(method, "data", product, k, 0))
    return open_method(context.method(method), context.cache).judge(task)


def test_deployable_scores_are_those_of_the_runtime(context: Context) -> None:
    run, bundle = _judge(context, "run"), _judge(context, "bundle")
    assert run.image_score == bundle.image_score == "deployable"
    assert np.abs(run.maps - bundle.maps).max() < 5e-3  # of 0 to 12; tokens in half precision
    # the runtime's peak scale comes from its own code and unrounded tokens
    np.testing.assert_allclose(run.scores, bundle.scores, atol=2e-3)
    assert np.ptp(run.scores) > 0.01


def test_transductive_scores_are_april_gans(context: Context, vit: Vit) -> None:
    published = dataclasses.replace(context, image_score="april_gan_transductive")
    task, _ = make_task(published, Cell("bundle", "data", "ring", 2, 0))
    inspector = Inspector.open(vit.bundle)
    profile = inspector.enroll(task.reference_paths, "ring")
    results = [inspector.inspect(path, profile) for path in task.image_paths]
    s_text = np.array([result.text_score for result in results], np.float64)
    m = np.array([result.anomaly_map.max() for result in results], np.float64)
    expected = 0.5 * (s_text + (m - m.min()) / (m.max() - m.min()))
    for method, tolerance in (("bundle", 1e-6), ("run", 0.02)):  # m is stretched to 0 to 1
        judgement = _judge(published, method)
        assert judgement.image_score == "april_gan_transductive"
        np.testing.assert_allclose(judgement.scores, expected, atol=tolerance)


def test_zero_shot_is_the_text_alone(context: Context, vit: Vit) -> None:
    judgement = _judge(context, "run", k=0)
    assert judgement.image_score == "text"
    task, _ = make_task(context, Cell("run", "data", "ring", 0, 0))
    assert task.references == ()
    images = np.stack([Preprocessing(SIZE_PX, SIZE_PX)(load_image(p)) for p in task.image_paths])
    with torch.no_grad():
        detector = Detector(vit.backbone, vit.head).eval()
        detection = detector(torch.from_numpy(images), vit.backbone.text_vectors("ring"))
    assert detection.text_score is not None
    np.testing.assert_allclose(judgement.scores, detection.text_score.numpy(), atol=1e-4)
    np.testing.assert_allclose(judgement.maps, detection.text_map.numpy(), atol=5e-3)


def test_raw_features_of_a_clip_model_know_no_text(context: Context) -> None:
    for flag in ("deployable", "april_gan_transductive"):
        judgement = _judge(dataclasses.replace(context, image_score=flag), "raw")
        assert judgement.image_score == "peak"
        np.testing.assert_array_equal(judgement.scores, judgement.maps.max(axis=(1, 2)))


def test_zero_shot_is_planned_once_and_where_it_is_possible(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cells = applicable_cells(context)
    zero_shot = [cell for cell in cells if cell.k == 0]
    assert zero_shot == [Cell("run", "data", product, 0, 0) for product in ("ring", "washer")]
    assert len(cells) == 2 + 3 * 2 * 2 * 2
    assert "bundle has no text tower" not in caplog.text
    assert "bundle cannot be evaluated zero-shot" in caplog.text
    assert "raw cannot be evaluated zero-shot" in caplog.text
    without = dataclasses.replace(context, methods=context.methods[1:])
    with pytest.raises(UsageError, match=r"`--shots` 0 is zero-shot, .* bundle, raw"):
        applicable_cells(without)


def test_the_kind_of_image_score_counts_only_with_a_text_tower(context: Context) -> None:
    small = dataclasses.replace(
        context,
        methods=(context.methods[0], context.methods[2]),
        datasets={"data": context.datasets["data"].of("ring")},
        shots=(1,),
        seeds=(0,),
    )
    run_all(small, plan(small))
    assert plan(small) == []
    other = dataclasses.replace(small, image_score="april_gan_transductive")
    assert [cell.method for cell in plan(other)] == ["run"]


def test_a_bundle_without_the_products_text_says_so(context: Context) -> None:
    method = open_method(context.method("bundle"), context.cache)
    assert method.facts(Cell("bundle", "data", "ring", 1, 0))["text_name"] == "ring"
    assert method.facts(Cell("bundle", "data", "washer", 1, 0))["text_name"] == "object"
