"""Options of TFA-Net: what tfa_net.md 2.11 leaves open, and the sizes of the network."""

from dataclasses import dataclass

MASKINGS = ("uniform", "fraction", "none")
TEMPLATES = ("medoid", "first")
TEMPLATE_NORMALIZATIONS = ("like_input", "as_published")
TRAINING_TEMPLATES = ("fixed", "random")
FEATURE_NORMS = ("channels", "none")
MAPS = ("product", "weighted")
SCORES = ("std", "max")
SELECTIONS = ("last", "held_out")


@dataclass(frozen=True)
class TfaConfig:
    """TFA-Net (``model.name = "tfa-net"``); the defaults are sized for the embedded trunk.

    Attributes
    ----------
    grid : int
        g, cells on each side of the fused features; 0 takes the trunk's finest grid.
    patch : int
        k, cells on each side of a patch; 4 as published, on a grid of 64.
    width, heads, aggregation_blocks : int
        Of the aggregation; 768, 12 and 12 as published.
    refinement_width, refinement_heads, refinement_blocks : int
        Of the refinement; 512, 16 and 8 as published.
    masking : {'uniform', 'fraction', 'none'}
        Input tokens that a learned mask token replaces in training: a share drawn from 0 to 1 for
        every image, the share `mask_fraction`, or none as in the released code.
    mask_fraction : float
        For ``masking = "fraction"``.
    template : {'medoid', 'first'}
        The training normal that is the template: the one of largest cosine to the others' mean
        features, or the first file, as published.
    template_normalization : {'like_input', 'as_published'}
        ``as_published`` scales the template to 0..1 alone, without mean and deviation.
    training_template : {'fixed', 'random'}
        The template in every step, as published, or another training normal for every image, so
        that the network bears a new template.
    feature_norm : {'channels', 'none'}
        Normalise each channel of the fused features by the training normals' mean and deviation,
        or take them as they are, as published.
    map : {'product', 'weighted'}
        D * C, or 5 C + D, of squared distance D and 1 - cosine C.
    blur_sigma : float
        Of the Gaussian blur of both maps, in pixels.
    score : {'std', 'max'}
        The image's score: deviation (published) or maximum of its anomaly map.
    selection : {'last', 'held_out'}
        Keep the last epoch's weights, or those of the smallest loss on the held-out normals.
    held_out : float
        Share of the normals that training leaves out for the validation loss.
    epochs : int
    weight_decay : float
        Of AdamW; learning rate, betas and batch size are those of the section `train`.
    cosine_weight : float
        Of the mean of 1 - cosine over patches, beside the mean squared error.
    """

    grid: int = 0
    patch: int = 2
    width: int = 192
    heads: int = 6
    aggregation_blocks: int = 4
    refinement_width: int = 128
    refinement_heads: int = 4
    refinement_blocks: int = 2
    masking: str = "uniform"
    mask_fraction: float = 0.5
    template: str = "medoid"
    template_normalization: str = "like_input"
    training_template: str = "random"
    feature_norm: str = "channels"
    map: str = "product"
    blur_sigma: float = 4.0
    score: str = "std"
    selection: str = "last"
    held_out: float = 0.1
    epochs: int = 60
    weight_decay: float = 0.01
    cosine_weight: float = 5.0
