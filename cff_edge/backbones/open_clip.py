"""Any open_clip vision transformer as a backbone: raw patch tokens of chosen blocks, and text.

Tokens are the residual stream right after a block: no final LayerNorm, no projection, no class
token (APRIL-GAN, arXiv 2305.17382).

The activation follows the model's name, as in open_clip: ``ViT-L-14-336`` is built with GELU and
``ViT-L-14-336-quickgelu`` with QuickGELU, whatever the weights were trained with. OpenAI trained
with QuickGELU, but the linear layers that APRIL-GAN released belong to GELU. What was built is
read from the model and recorded, so that the two cannot be mixed up later.
"""

import difflib
import functools
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from cff_edge.backbones.protocol import BackboneInfo, StageInfo
from cff_edge.backbones.weights import refuse_torchscript, weights_sha256, why_unreadable
from cff_edge.prompts import text_vectors
from cff_runtime.errors import CffError, MissingDependencyError, UsageError

_PROMPTS_PER_BATCH = 64
_WELL_KNOWN = ("ViT-B-16", "ViT-L-14", "ViT-L-14-336")


class VisionTrunk(nn.Module):
    """The image tower of an open_clip model, cut down to what a backbone returns.

    Parameters
    ----------
    visual : VisionTransformer
        The tower.
    taps : tuple of int
        Counts of executed blocks, from 1, ascending.
    """

    def __init__(self, visual: nn.Module, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.visual: Any = visual
        self.indices = [tap - 1 for tap in taps]

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map normalised images [B,3,H,W] to S stages [B,N,E] and the embedding [B,C]."""
        outputs = self.visual.forward_intermediates(
            images, indices=self.indices, normalize_intermediates=False, output_fmt="NLC"
        )
        return outputs["image_intermediates"], outputs["image_features"]


class OpenClipBackbone:
    """An open_clip vision transformer and its text tower.

    Parameters
    ----------
    model : str
        Name in ``open_clip.list_models()``.
    weights : str
        An open_clip tag such as ``openai`` (downloaded by open_clip into its cache), the path of a
        local checkpoint (``.safetensors``, else read with ``weights_only``), or ``random``. Where a
        tag and a file have one name, the tag is meant.
    image_size : int, optional
        Side of the square input in pixels, a multiple of the patch size; the model's own if None.
        The position embedding of the weights is resized to it.
    joint_dim : int, optional
        C; the model fixes it, so another value is refused.
    taps : tuple of int, optional
        Counts of executed blocks, from 1, ascending; D/4, D/2, 3D/4 and D of D blocks if None.
    seed : int, default=0
        Seed of random weights.

    Raises
    ------
    UsageError
        For a model without patch tokens, or unknown or unfitting arguments.
    CffError
        If open_clip cannot build the model, such as when a download fails.

    Notes
    -----
    A local checkpoint says nothing about its input normalisation; open_clip's default, that of
    OpenAI, is then assumed.
    """

    info: BackboneInfo

    def __init__(
        self,
        model: str,
        weights: str,
        image_size: int | None = None,
        joint_dim: int | None = None,
        taps: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        self._name = f"open_clip:{model}"
        config = _vision_config(model)
        image_size = _checked_image_size(image_size, config)
        taps = _checked_taps(taps, config.layers)
        tag, file = _weights_source(model, weights)
        clip = _build(model, tag, file, image_size, seed)
        clip.eval().requires_grad_(False)
        visual = clip.visual
        if joint_dim not in (None, visual.output_dim):
            raise UsageError(
                f"`joint_dim` must be {visual.output_dim}, which {self._name} fixes, "
                f"got {joint_dim}; leave it out"
            )
        self._clip: Any | None = clip
        self._model = model
        self._text_vectors: dict[str, Tensor] = {}
        self._trunk = VisionTrunk(visual, taps).eval()
        rows, columns = visual.grid_size
        self.info = BackboneInfo(
            name=self._name,
            weights=tag or (f"file:{file.name}" if file else "random"),
            weights_sha256=weights_sha256(self._trunk),
            activation=_activation(visual),
            image_size=image_size,
            mean=_times_255(visual.preprocess_cfg["mean"]),
            std=_times_255(visual.preprocess_cfg["std"]),
            stages=tuple(StageInfo(f"block{tap}", config.width, (rows, columns)) for tap in taps),
            joint_dim=visual.output_dim,
            has_text_tower=True,
            licence="MIT" if tag == "openai" else "unknown",
        )

    @property
    def module(self) -> nn.Module:
        """The image trunk, without the text tower."""
        return self._trunk

    @property
    def unpadded_stem(self) -> nn.Conv2d:
        """The patch embedding: its patches do not overlap and need no padding."""
        stem: nn.Conv2d = self._trunk.visual.conv1
        return stem

    def text_vectors(self, product: str) -> Tensor:
        """Return the unit text vectors of a product, float [C,2] on the CPU.

        They are kept, so a product is encoded once.

        Raises
        ------
        CffError
            If the product is new and the text tower has been released.
        """
        if product not in self._text_vectors:
            self._text_vectors[product] = text_vectors(self._encode, product)
        return self._text_vectors[product].clone()

    def release_text_tower(self) -> None:
        """Free the memory of the text tower; text vectors made so far stay available."""
        self._clip = None

    @functools.cached_property
    def _tokenizer(self) -> Any:
        try:
            return open_clip.get_tokenizer(self._model)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"`{error.name}` must be installed for the tokenizer of {self._name}, but it is "
                f"not; run `pip install {error.name}`"
            ) from error

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        if self._clip is None:
            raise CffError(
                f"the text tower of {self._name} must be loaded to encode a new product, but "
                "`release_text_tower` has freed it; ask for the text vectors of every product "
                "first, or load the backbone again"
            )
        tokens = self._tokenizer(texts)  # [n,L]
        batches = [self._clip.encode_text(batch) for batch in tokens.split(_PROMPTS_PER_BATCH)]
        return torch.cat(batches)  # [n,C]


def load(model: str, weights: str, **options: Any) -> OpenClipBackbone:
    """Build the backbone for `load_backbone`; options left out keep the model's own values."""
    return OpenClipBackbone(model, weights, **options)


def _vision_config(model: str) -> Any:
    """Return open_clip's vision configuration of a model, or refuse one without patch tokens."""
    problem: str | None = "open_clip has no model of this name"
    if model in open_clip.list_models():
        config = _parsed(model)
        problem = _why_unusable(config)
        if problem is None:
            return config
    usable = [name for name in open_clip.list_models() if _why_unusable(_parsed(name)) is None]
    near = difflib.get_close_matches(model, usable, n=4, cutoff=0.4) or _WELL_KNOWN
    raise UsageError(
        "`name` must be open_clip:<model> with one of open_clip's own vision transformers, "
        f"got {model!r}: {problem}; the nearest usable names are {', '.join(near)}"
    )


def _parsed(model: str) -> Any:
    return open_clip.CLIPVisionCfg(**open_clip.get_model_config(model)["vision_cfg"])


def _why_unusable(config: Any) -> str | None:
    if config.timm_model_name:
        return f"its image tower is {config.timm_model_name} of timm, whose tokens are not read yet"
    if not isinstance(config.layers, int):
        return "its image tower is a ResNet, which has no patch tokens"
    if config.pool_type == "none" or isinstance(config.attentional_pool, str):
        return "its image tower does not pool to one embedding"
    if not isinstance(config.patch_size, int):
        return "its patches are not square"
    return None


def _checked_image_size(image_size: int | None, config: Any) -> int:
    size = config.image_size if image_size is None else image_size
    patch = config.patch_size
    if not isinstance(size, int) or size < patch or size % patch:
        raise UsageError(
            f"`image_size` must be a positive multiple of the patch size {patch}, got {size}; "
            f"such as {patch * 16}"
        )
    return size


def _checked_taps(taps: tuple[int, ...] | None, depth: int) -> tuple[int, ...]:
    if taps is None:
        taps = tuple(depth * quarter // 4 for quarter in (1, 2, 3, 4))
    if not taps or list(taps) != sorted(set(taps) & set(range(1, depth + 1))):
        raise UsageError(
            f"`taps` must be ascending counts of executed blocks in 1..{depth}, got {taps}"
        )
    return taps


def _weights_source(model: str, weights: str) -> tuple[str | None, Path | None]:
    """Return the open_clip tag, or the file; neither stands for random weights."""
    if weights == "random":
        return None, None
    tags = open_clip.list_pretrained_tags_by_model(model)
    tag = weights.lower().replace("-", "_")  # as open_clip compares them
    if tag in tags:
        return tag, None
    file = Path(weights)
    if file.is_file():
        refuse_torchscript(file)
        return None, file
    near = difflib.get_close_matches(tag, tags, n=3) or tags
    raise UsageError(
        f"`weights` of open_clip:{model} must be 'random', the path of a file or an open_clip tag, "
        f"got {weights!r}; tags of this model are {', '.join(near) or 'none'}"
    )


def _build(model: str, tag: str | None, file: Path | None, image_size: int, seed: int) -> Any:
    # Building draws initial weights from the global generator even where others replace them.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return open_clip.create_model(
                model,
                pretrained=tag if file is None else str(file),
                force_image_size=image_size,
                weights_only=True,
            )
        except Exception as error:  # a damaged file or a failed download can raise almost anything
            name = f"open_clip:{model}"
            if file is not None:
                raise UsageError(
                    f"`weights` must hold the state dict of {name}, but `{file}` does not fit it; "
                    f"choose another file ({why_unreadable(error)})"
                ) from error
            raise CffError(
                f"open_clip must be able to build {name} with weights {tag or 'random'!r}, but it "
                f"failed: {error}; check the network, or give the path of a local file"
            ) from error


def _activation(visual: nn.Module) -> str:
    names = {QuickGELU: "quick_gelu", nn.GELU: "gelu"}
    found = {names[type(layer)] for layer in visual.modules() if type(layer) in names}
    if len(found) != 1:
        raise UsageError(
            "the image tower must have one kind of activation, gelu or quick_gelu, "
            f"got {', '.join(sorted(found)) or 'neither'}; choose another model"
        )
    return found.pop()


def _times_255(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255.0 * value for value in values)
    return red, green, blue
