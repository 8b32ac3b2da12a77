"""anomalib's peers against the formulas that they publish; `make peers-test` runs this.

Weights: Lite0's are a package's, those of CLIP, DINOv2 and ResNet cannot be had without a network
and are random here. What is tested with them is what surrounds the weights, not what they find.
"""

import urllib.error
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("anomalib", reason="in an environment of its own: `make peers-test`")
    import open_clip
    import timm
    from anomalib.models.image.winclip import torch_model as winclip

    from cff_edge.backbones import load_backbone
    from cff_peers import anomalib_peers
    from cff_peers.peer import PEERS, Peer, load_peer
    from cff_runtime.errors import MissingDependencyError

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)

CPU = torch.device("cpu")
Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def images(n: int, size: int, seed: int) -> Tensor:
    """Smooth noise [n,3,size,size] of about unit deviation: neighbouring pixels are alike."""
    coarse = torch.randn(n, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def lite0_maps(batch: Tensor, blocks: tuple[int, ...]) -> list[Tensor]:
    """The outputs of Lite0's blocks, by hooks on our own backbone."""
    trunk = load_backbone("efficientnet-lite0", "imagenet", 256).module
    outputs: dict[int, Tensor] = {}
    for index in blocks:
        trunk.get_submodule(f"blocks.{index}").register_forward_hook(
            lambda _module, _inputs, output, index=index: outputs.update({index: output})
        )
    trunk(batch)
    return [outputs[index] for index in blocks]


def distances(queries: Array, bank: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(((queries[:, None] - bank[None]) ** 2).sum(2), 0)))


def test_patchcore_is_the_published_one_on_lite0() -> None:
    """Bank from pooled layers 2 and 3, its coreset a tenth; the score weighted by 9 neighbours."""
    peer = load_peer("patchcore", CPU)
    references, tests = images(2, 256, 0), images(2, 256, 1)
    peer.fit(references, "any", seed=3)
    scores, maps = peer.score(tests)

    def patches(batch: Tensor) -> Array:
        second, third = (F.avg_pool2d(f, 3, 1, 1) for f in lite0_maps(batch, (4, 10)))
        third = F.interpolate(third, size=(32, 32), mode="bilinear", align_corners=False)
        joined = torch.cat([second, third], 1).permute(0, 2, 3, 1)  # [B,32,32,152]
        return joined.double().numpy().reshape(len(batch), 1024, 152)

    bank = peer._model.memory_bank.double().numpy()  # type: ignore[attr-defined]
    everything = patches(references).reshape(-1, 152)
    assert bank.shape == (int(0.1 * 2 * 1024), 152)
    assert all(np.abs(everything - row).sum(1).min() < 1e-3 for row in bank)
    assert len(np.unique(bank, axis=0)) == len(bank)
    for index, queries in enumerate(patches(tests)):
        table = distances(queries, bank)
        least, place = table.min(1), int(table.min(1).argmax())
        nearest = int(table[place].argmin())
        support = distances(bank[nearest : nearest + 1], bank)[0].argsort()[:9]
        powers = np.exp(table[place, support] - table[place, support].max())
        weight = 1 - powers[0] / powers.sum()  # the nearest is its own nearest neighbour
        assert scores[index].item() == pytest.approx(weight * least[place], rel=1e-3)
        up = np.kron(least.reshape(32, 32), np.ones((8, 8)))
        expected = gaussian_filter(up, 4.0, mode="mirror", truncate=4.0)
        np.testing.assert_allclose(maps[index].numpy(), expected, rtol=2e-3)


def test_padim_is_the_published_one_on_lite0() -> None:
    """Mahalanobis distance per place, the unbiased covariance of K images plus 0.01."""
    peer = load_peer("padim", CPU)
    references, tests = images(3, 256, 0), images(1, 256, 1)
    peer.fit(references, "any", seed=3)
    scores, maps = peer.score(tests)

    def places(batch: Tensor) -> Array:
        layers = [F.interpolate(f, size=(64, 64)) for f in lite0_maps(batch, (2, 4, 10))]
        joined = torch.cat(layers, 1)  # [B,176,64,64]
        chosen = joined[:, peer._model.idx]  # type: ignore[attr-defined]
        return chosen.double().flatten(2).permute(2, 0, 1).numpy()  # [4096,B,100]

    given, asked = places(references), places(tests)[:, 0]
    mean = given.mean(1)
    centred = given - mean[:, None]
    # By Woodbury, so that no 100 x 100 matrix is inverted as in the code under test.
    ridge = 0.01 + 1e-5
    inner = centred @ centred.transpose(0, 2, 1) / (2 * ridge) + np.eye(3)
    delta = asked - mean
    seen = np.einsum("pke,pe->pk", centred, delta)
    inside = np.einsum("pk,pk->p", seen, np.linalg.solve(inner, seen[..., None])[..., 0])
    squared = (delta**2).sum(1) / ridge - inside / (2 * ridge**2)
    grid = torch.from_numpy(np.sqrt(squared).reshape(1, 1, 64, 64))
    up = F.interpolate(grid, size=(256, 256), mode="bilinear", align_corners=False)[0, 0].numpy()
    expected = gaussian_filter(up, 4.0, mode="mirror", truncate=4.0)
    np.testing.assert_allclose(maps[0].numpy(), expected, rtol=1e-3)
    assert scores[0].item() == pytest.approx(expected.max(), rel=1e-3)


def test_padim_of_one_reference_is_undefined() -> None:
    """Why the table of peers asks for two."""
    peer = load_peer("padim", CPU)
    peer.fit(images(1, 256, 0), "any", seed=0)
    scores, _ = peer.score(images(1, 256, 1))
    assert torch.isnan(scores).all()
    assert PEERS["padim"].min_references == 2


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_the_seed_decides_and_global_state_stays(name: str) -> None:
    peer = load_peer(name, CPU)
    references, tests = images(2, 256, 0), images(1, 256, 1)
    torch.manual_seed(5)
    np.random.seed(5)
    expected = (torch.rand(3), np.random.rand(3))
    results = []
    for seed in (1, 2, 1):
        torch.manual_seed(5)
        np.random.seed(5)
        peer.fit(references, "any", seed)
        assert torch.equal(torch.rand(3), expected[0])
        np.testing.assert_array_equal(np.random.rand(3), expected[1])
        results.append(peer.score(tests)[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])


def test_no_trace_of_an_earlier_product() -> None:
    peer, tests = load_peer("patchcore", CPU), images(1, 256, 1)
    peer.fit(images(1, 256, 0), "any", seed=0)
    first = peer.score(tests)[1]
    peer.fit(images(2, 256, 9), "other", seed=0)
    peer.fit(images(1, 256, 0), "any", seed=0)
    assert torch.equal(peer.score(tests)[1], first)


@pytest.fixture
def random_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timm builds what it is asked for, with random weights of one seed instead of pretrained."""
    create = timm.create_model

    def create_random(name: str, **options: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create(name, **{**options, "pretrained": False})

    monkeypatch.setattr(timm, "create_model", create_random)


@pytest.mark.parametrize("name", ["patchcore-wrn50", "padim-resnet18", "spade-wrn50"])
def test_networks_of_the_papers(name: str, random_timm: None) -> None:
    """Layers 1 to 4 of a timm ResNet are found; a reference itself is the most normal image."""
    peer = load_peer(name, CPU)
    references = images(2, 256, 0)
    peer.fit(references, "any", seed=0)
    scores, maps = peer.score(torch.cat([references[:1], images(1, 256, 7)]))
    assert maps.shape == (2, 256, 256)
    assert scores[0] < scores[1]
    assert maps[0].mean() < maps[1].mean()
    assert str(peer.facts["backbone"]) in ("wide_resnet50_2", "resnet18")
    assert str(peer.facts["weights"]).startswith("timm ")
    assert "layer2" in peer.facts["layers"]


def test_anomalydino_is_the_published_one(random_timm: None) -> None:
    """One minus the cosine to the nearest patch; the score is the mean of the top percent."""
    peer = load_peer("anomalydino", CPU)
    references, tests = images(2, 252, 0), images(2, 252, 1)
    peer.fit(references, "any", seed=0)
    scores, maps = peer.score(torch.cat([tests, references]))
    vit = timm.create_model("vit_small_patch14_dinov2", dynamic_img_size=True).eval()

    def tokens(batch: Tensor) -> Tensor:
        patches = vit.forward_features(batch)[:, 1:].double()  # without the class token
        return F.normalize(patches, dim=-1)  # [B,324,384]

    bank = tokens(references).flatten(0, 1)
    for index, queries in enumerate(tokens(tests)):
        least = (1 - queries @ bank.T).amin(1)
        assert scores[index].item() == pytest.approx(least.topk(3).values.mean().item(), abs=1e-4)
        up = np.kron(least.reshape(18, 18).numpy(), np.ones((14, 14)))
        blurred = gaussian_filter(up, 4.0, mode="mirror", truncate=4.0)
        expected = F.interpolate(
            torch.from_numpy(blurred)[None, None], size=(256, 256), mode="bilinear"
        )[0, 0]
        np.testing.assert_allclose(maps[index].numpy(), expected.numpy(), atol=1e-4)
    assert scores[2:].max() < 1e-5 < scores[:2].min()
    assert peer.facts["backbone"] == "vit_small_patch14_dinov2"


@pytest.fixture
def tiny_winclip(monkeypatch: pytest.MonkeyPatch) -> Peer:
    """WinCLIP on a CLIP of its shape, 240 px in patches of 16, but one random narrow layer."""

    def create(name: str, pretrained: str) -> tuple[Any, None, None]:
        assert (name, pretrained) == ("ViT-B-16-plus-240", "laion400m_e31")
        vision = {"image_size": 240, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            text = {"width": 64, "heads": 2, "layers": 1}
            return open_clip.model.CLIP(32, vision, text), None, None

    monkeypatch.setattr(winclip.open_clip, "create_model_and_transforms", create)
    return load_peer("winclip", CPU)


def test_winclip_zero_and_few_shot(tiny_winclip: Peer) -> None:
    """A reference matches itself: its few-shot part is 0, half of the zero-shot part is left."""
    references, tests = images(2, 240, 0), images(2, 240, 1)
    batch = torch.cat([references, tests])
    tiny_winclip.fit(references[:0], "bottle", seed=0)
    zero_scores, zero_maps = tiny_winclip.score(batch)
    tiny_winclip.fit(references, "bottle", seed=0)
    few_scores, few_maps = tiny_winclip.score(batch)
    assert zero_scores.shape == (4,)
    assert zero_maps.shape == few_maps.shape == (4, 256, 256)
    torch.testing.assert_close(few_scores[:2], zero_scores[:2] / 2)
    torch.testing.assert_close(few_maps[:2], zero_maps[:2] / 2)
    assert (few_scores[2:] > zero_scores[2:] / 2 + 1e-4).all()

    tiny_winclip.fit(references[:0], "bottle", seed=0)  # nothing of the references is left
    torch.testing.assert_close(tiny_winclip.score(batch)[0], zero_scores)
    tiny_winclip.fit(references[:0], "carpet", seed=0)
    assert not torch.equal(tiny_winclip.score(batch)[0], zero_scores)
    assert tiny_winclip.facts["weights"] == "laion400m_e31"


@pytest.mark.parametrize("name", ["winclip", "anomalydino", "patchcore-wrn50", "padim-resnet18"])
def test_weights_that_cannot_be_had_are_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(winclip.open_clip, "create_model_and_transforms", refuse)
    with pytest.raises(MissingDependencyError, match=r"weights of .* are neither .*no network"):
        load_peer(name, CPU)


def test_normalisation_is_that_of_anomalibs_own_preprocessors() -> None:
    """Ours is of 0..255, theirs of 0..1."""
    from anomalib.models.image import AnomalyDINO, WinClip

    for lightning, spec in (
        (AnomalyDINO, anomalib_peers._DINO_INPUT),
        (WinClip, anomalib_peers._WINCLIP_INPUT),
    ):
        resize, normalise = lightning.configure_pre_processor().transform.transforms
        assert tuple(resize.size) == (spec.size_px, spec.size_px)
        np.testing.assert_allclose(np.array(spec.mean) / 255, normalise.mean, rtol=1e-6)
        np.testing.assert_allclose(np.array(spec.std) / 255, normalise.std, rtol=1e-6)


def test_settings_are_anomalibs_defaults() -> None:
    import inspect

    from anomalib.models.image import Patchcore
    from anomalib.models.image.padim.torch_model import _N_FEATURES_DEFAULTS

    defaults = inspect.signature(Patchcore.__init__).parameters
    assert (
        defaults["coreset_sampling_ratio"].default == anomalib_peers.CORESET_SAMPLING_RATIO == 0.1
    )
    assert defaults["num_neighbors"].default == anomalib_peers.NUM_NEIGHBORS == 9
    assert _N_FEATURES_DEFAULTS["resnet18"] == anomalib_peers.N_FEATURES == 100
