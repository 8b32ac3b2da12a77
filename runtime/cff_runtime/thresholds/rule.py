"""The rule of thumb for a threshold from the references alone.

    base  = max(scores)                     K > 1: references left out, and augmentations
    base  = 1.42 max(scores)                K = 1: augmentations, against their own image's bank
    limit = base + margin / K^2 * |base|    margin 0.2 by default

The more references, the nearer the largest of their scores lies to what good parts reach, so the
margin shrinks with K. It does not grow with the spread of the scores: few references that differ
much would put the threshold beyond most defects. An image's own bank knows nothing of how parts
differ; other good parts lie 1.5 to 2 times as high as its augmentations.

Margin and factor were chosen on 15 products of 4 sets (piped, fabric_hsst, ballscrew,
hazelnut_toy), at the smallest mean of false rejects and false accepts over sets, with log
distances; K = 2 to 4 and three draws: 9.1 % and 24.4 %, where the former rule, max + 0.25 (max -
median), chosen with cosine distances, had 10.2 % and 26.5 %, and with K = 1 rejected every good
part. `docs/thresholds.md` tells what it gives on products that had no part in the choice.
"""

from collections.abc import Sequence

from cff_runtime.finishing import peak_scale_of

DEFAULT_MARGIN = 0.2
MAX_MARGIN = 100.0  # beyond it every part would pass
_OWN_BANK_FACTOR = 1.42


def default_limit(values: Sequence[float], n_parts: int, margin: float) -> float:
    """Return the threshold of some scores or map maxima.

    Parameters
    ----------
    values : sequence of float
    n_parts : int
        K.
    margin : float
    """
    base = max(values)
    if n_parts == 1:
        base += (_OWN_BANK_FACTOR - 1.0) * abs(base)
    return float(base + margin / n_parts**2 * abs(base))


def text_apart_limit(
    scores: Sequence[float], peaks: Sequence[float], all_peaks: Sequence[float]
) -> float:
    """Return the limit of equation (4) of `cff_runtime.thresholds.bounds`.

    Parameters
    ----------
    scores, peaks : sequence of float
        Image scores and map maxima of the references left out, where the encoder gives a score.
        Its scores follow from them, as `cff_runtime.finishing.image_score` puts both together.
    all_peaks : sequence of float
        Map maxima that set the scale, those of the augmentations too.
    """
    scale = peak_scale_of(all_peaks)
    largest = max(2.0 * score - scale * peak for score, peak in zip(scores, peaks, strict=True))
    return 0.5 * (largest + scale * max(peaks))
