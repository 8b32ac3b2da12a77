"""Training configuration: strict TOML, overrides, presets, ranges."""

import dataclasses
import sys
from pathlib import Path

import pytest

from cff_edge.config import Config, load_config
from cff_edge.config_checks import MAX_SEED
from cff_runtime.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_embedded_backbone_and_the_paper() -> None:
    config = load_config()
    assert config == Config()
    assert (config.backbone.name, config.backbone.weights) == ("efficientnet-lite0", "imagenet")
    train = config.train
    assert (train.batch_size, train.seed) == (16, 42)
    assert (train.focal_weight, train.dice_weight, train.align_weight) == (0.6, 0.4, 0.1)
    assert (train.global_weight, train.global_scale) == (0.1, "tokens")
    assert config.head.distance == "log"


def test_file_sets_values_and_the_rest_keeps_its_defaults(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        '[backbone]\ntaps = [1, 3]\n[data]\nroots = ["a", "b"]\n[train]\nlearning_rate = 1\n'
        "adjacent_weights = [1, 0.5]\n",
    )
    config = load_config(path)
    assert config.backbone.taps == (1, 3)
    assert config.data.roots == ("a", "b")
    assert config.train.learning_rate == 1.0
    assert type(config.train.learning_rate) is float
    assert config.train.adjacent_weights == (1.0, 0.5)
    assert config.head == Config().head


def test_overrides_beat_the_file_and_each_other(tmp_path: Path) -> None:
    path = _write(tmp_path, "[train]\nseed = 1\nbatch_size = 2\n")
    config = load_config(path, ["train.seed=2", "train.seed = 3", " head.calibrator = mlp"])
    assert (config.train.seed, config.train.batch_size) == (3, 2)
    assert config.head.calibrator == "mlp"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ('data.roots=["x y", "z"]', ("x y", "z")),
        ("data.roots=/data/mvtec", ("/data/mvtec",)),  # no TOML: a plain string
        ("data.roots=[]", ()),
        ('data.roots="a=b"', ("a=b",)),
    ],
)
def test_override_values_are_toml_or_plain_text(override: str, value: tuple[str, ...]) -> None:
    assert load_config(None, [override]).data.roots == value


def test_open_clip_gets_the_papers_recipe(tmp_path: Path) -> None:
    path = _write(tmp_path, '[backbone]\nname = "open_clip:ViT-L-14-336"\n')
    for config in (load_config(path), load_config(None, ["backbone.name=open_clip:ViT-L-14-336"])):
        assert (config.backbone.weights, config.backbone.image_size) == ("openai", 518)
        assert (config.head.projector_init, config.head.text_weight) == ("default", 1.0)
        assert config.head.distance == "cosine"
        assert (config.train.projector_epochs, config.train.calibrator_epochs) == (15, 15)
    config = load_config(path, ["backbone.image_size=336", "train.projector_epochs=3"])
    assert (config.backbone.image_size, config.train.projector_epochs) == (336, 3)
    back = load_config(path, ["backbone.name=efficientnet-lite0"])
    assert back == Config()


@pytest.mark.parametrize(
    ("name", "epochs", "mosaic"), [("april-gan-mvtec", 3, 0.2), ("april-gan-visa", 15, 0.0)]
)
def test_april_gan_presets_are_its_published_scripts(
    tmp_path: Path, name: str, epochs: int, mosaic: float
) -> None:
    config = load_config(preset=name)
    assert config.backbone.name == "open_clip:ViT-L-14-336"  # plain GELU, not -quickgelu
    assert (config.backbone.weights, config.backbone.image_size) == ("openai", 518)
    head, train = config.head, config.train
    assert (head.calibrator, head.bank, head.text_map) == ("none", "raw", "maps")
    assert (head.projector_init, head.text_weight) == ("default", 1.0)
    assert head.distance == "cosine"
    assert (train.learning_rate, train.adam_betas) == (1e-3, (0.5, 0.999))
    assert (train.batch_size, train.seed) == (8, 111)
    assert (train.projector_epochs, train.mosaic) == (epochs, mosaic)
    assert (train.loss_map, train.focal_weight, train.dice_weight) == ("stages", 1.0, 1.0)
    path = _write(tmp_path, "[train]\nbatch_size = 4\nseed = 5\n")
    layered = load_config(path, ["train.seed=6"], name).train
    assert (layered.batch_size, layered.seed, layered.learning_rate) == (4, 6, 1e-3)
    assert load_config(_write(tmp_path, config.to_toml())) == config


def test_a_preset_names_the_backbone_that_brings_its_recipe() -> None:
    config = load_config(None, ["backbone.name=efficientnet-lite0"], "april-gan-visa")
    assert config.train.calibrator_epochs == 0
    assert config.backbone.image_size == 518  # of the preset itself
    with pytest.raises(UsageError, match=r"`preset` must be one of april-gan-mvtec, april-gan-v"):
        load_config(preset="april-gan")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.align_on=references"], "`data.align_references` must name images for"),
        (["data.align_references=a.png"], '`train.align_on` must be "references" for'),
        (
            ["train.align_on=references", "data.align_references=a", "head.calibrator=none"],
            "`head.calibrator` must be affine or mlp to align on references",
        ),
        (["train.loss_map=stages", "head.text_map=features"], '`train.loss_map` must be "fused"'),
        (
            ["train.calibrator_map=bank", "head.bank=raw"],
            '`train.calibrator_map` must be "text" with `head.bank = "raw"`, got "bank"',
        ),
        (
            ["train.calibrator_map=bank", "train.mosaic=0.1", "head.calibrator=mlp"],
            '`train.calibrator_map` must be "text" with `train.mosaic`, got "bank"',
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, overrides)


@pytest.mark.parametrize("trouble", ["head.bank=raw", "train.mosaic=0.1"])
@pytest.mark.parametrize(
    "remedy", ["train.calibrator_map=text", "head.calibrator=none", "train.calibrator_epochs=0"]
)
def test_memory_banks_train_nothing_where_no_calibrator_is_trained_on_them(
    trouble: str, remedy: str
) -> None:
    config = load_config(None, ["train.calibrator_map=bank", trouble, remedy])
    assert (config.head.bank == "raw") != (config.train.mosaic == 0.1)


def test_calibrators_of_open_clip_are_trained_as_published_unless_asked_otherwise() -> None:
    name = "backbone.name=open_clip:ViT-L-14-336"
    assert load_config(None, [name]).train.calibrator_map == "text"
    own = ["train.calibrator_map=bank", "train.episode_queries=8"]
    train = load_config(None, [name, *own]).train
    assert (train.calibrator_map, train.episode_queries) == ("bank", 8)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["backbone.name=open_clip:ViT-B-16", "head.text_weight=0.3"],
        [
            'data.roots=["/a b", "/ä/😀", "C:\\\\x", "quo\\"te"]',
            "backbone.taps=[2, 4]",
            "train.adjacent_weights=[0.1, 1e-7, 3]",
            "train.learning_rate=0.30000000000000004",
            f"train.seed={MAX_SEED}",
        ],
    ],
)
def test_written_configuration_reads_back_the_same(tmp_path: Path, overrides: list[str]) -> None:
    config = load_config(None, overrides)
    text = config.to_toml()
    assert load_config(_write(tmp_path, text)) == config
    assert set(tomllib.loads(text)) == {"model", "backbone", "data", "head", "train", "tfa"}
    for section, values in dataclasses.asdict(config).items():
        assert set(tomllib.loads(text)[section]) == set(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]\nseed = 1", "section `trian` must be known; did you mean `train`"),
        ("[zzz]", "section `zzz` must be known; there are model, backbone, data, head, train, tfa"),
        ("[train]\nlearning_rat = 1.0", "`train.learning_rat` .*mean `train.learning_rate`"),
        ("[head]\nqqq = 1", "key `head.qqq` must be known; there are head.calibrator, "),
        ("seed = 1", "section `seed` must be known"),
        ("backbone = 3", "section `backbone` must be a table, got 3"),
        ('train = "fast"', "section `train` must be a table, got 'fast'"),
        ("[[train]]\nseed = 1", "section `train` must be a table"),
        ("[train]\nseed = 1.0", "`train.seed` must be of type int, got 1.0"),
        ("[train]\nseed = true", "`train.seed` must be of type int, got True"),
        ('[train]\nlearning_rate = "fast"', "`train.learning_rate` must be of type float"),
        ("[train]\nlearning_rate = false", "`train.learning_rate` must be of type float"),
        ("[backbone]\nname = 3", "`backbone.name` must be of type str, got 3"),
        ("[backbone]\ntaps = [1, 2.5]", "`backbone.taps` must be of type int, got 2.5"),
        ("[data]\nroots = [1]", "`data.roots` must be of type str, got 1"),
        ("[data]\nroots = [['a']]", "`data.roots` must be of type str"),
        ("[head]\ncalibrator = []", "`head.calibrator` must be of type str"),
        ("[train\n", "config.toml` must be TOML"),
        ("[train]\nseed = 1\nseed = 2", "config.toml` must be TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(_write(tmp_path, text))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml` must be a readable file"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(UsageError, match="must be a readable file"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'[data]\nroots = ["\xe4"]')
    with pytest.raises(UsageError, match=r"latin\.toml` must be TOML"):
        load_config(tmp_path / "latin.toml")


@pytest.mark.parametrize("override", ["train.seed", "seed=1", "", "=", "train=3"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(UsageError, match=r"`--set` must be section\.key=value, got"):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=0", "`train.batch_size` must be above 0 and finite, got 0"),
        ("train.learning_rate=-0.1", "`train.learning_rate` must be above 0"),
        ("train.learning_rate=nan", "`train.learning_rate` must be above 0 and finite, got nan"),
        ("train.learning_rate=inf", "`train.learning_rate` must be above 0 and finite, got inf"),
        ("train.calibrator_learning_rate=0", "`train.calibrator_learning_rate` must be above 0"),
        ("train.calibrator_learning_rate=nan", "`train.calibrator_learning_rate` .* got nan"),
        ("train.episode_queries=0", "`train.episode_queries` must be above 0 and finite, got 0"),
        ("train.episode_queries=2.5", "`train.episode_queries` must be of type int, got 2.5"),
        ("train.calibrator_map=both", "`train.calibrator_map` must be one of text, bank, got 'b"),
        ("train.projector_epochs=-1", "`train.projector_epochs` must be 0 or more"),
        ("train.calibrator_epochs=-1", "`train.calibrator_epochs` must be 0 or more"),
        ("train.focal_weight=-1.0", "`train.focal_weight` must be 0 or more"),
        ("train.dice_weight=-1", "`train.dice_weight` must be 0 or more"),
        ("train.align_weight=nan", "`train.align_weight` must be 0 or more and finite, got nan"),
        ("train.global_weight=-0.5", "`train.global_weight` must be 0 or more"),
        ("train.adjacent_weights=[1, -1]", "`train.adjacent_weights` must be 0 or more"),
        ("train.seed=-1", "`train.seed` must be 0 or more"),
        (f"train.seed={MAX_SEED + 1}", "`train.seed` must be at most"),
        ("train.device=tpu", "`train.device` must be one of auto, cpu, cuda, got 'tpu'"),
        ("train.global_scale=sum", "`train.global_scale` must be one of tokens, none, got 'sum'"),
        ("head.calibrator=linear", "`head.calibrator` must be one of none, affine, mlp"),
        ("head.projector_init=zero", "`head.projector_init` must be one of default, orthonormal"),
        ("head.text_weight=-0.1", "`head.text_weight` must be 0 or more"),
        ("head.text_weight=inf", "`head.text_weight` must be 0 or more and finite, got inf"),
        ("head.bank=mixed", "`head.bank` must be one of calibrated, raw, got 'mixed'"),
        ("head.distance=euclidean", "`head.distance` must be one of cosine, log, got 'euclidean'"),
        ("head.text_map=both", "`head.text_map` must be one of maps, features, got 'both'"),
        ("train.loss_map=all", "`train.loss_map` must be one of fused, stages, got 'all'"),
        ("train.align_on=all", "`train.align_on` must be one of batch, references, got 'all'"),
        ("train.mosaic=-0.1", "`train.mosaic` must be 0 or more"),
        ("train.mosaic=1.5", "`train.mosaic` must be a probability, got 1.5"),
        ("train.mosaic=nan", "`train.mosaic` must be 0 or more and finite, got nan"),
        ("train.adam_betas=[0.9]", "`train.adam_betas` must be two numbers in .* got .0.9."),
        ("train.adam_betas=[0.9, 1]", "`train.adam_betas` must be two numbers in"),
        ("train.adam_betas=[-0.1, 0.9]", "`train.adam_betas` must be two numbers in"),
        ("train.adam_betas=[nan, 0.9]", "`train.adam_betas` must be two numbers in"),
        ("data.max_per_product=-2", "`data.max_per_product` must be 0 or more"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(None, [override])
    assert load_config(None, ["train.projector_epochs=0"]).train.projector_epochs == 0
