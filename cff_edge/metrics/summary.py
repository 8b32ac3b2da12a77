"""All metrics of a product's test images at once."""

from dataclasses import asdict, dataclass, fields

from numpy.typing import ArrayLike

from cff_edge.metrics import curves
from cff_edge.metrics.checks import check_labels_fit, checked_maps, checked_scores
from cff_edge.metrics.image_level import image_ap, image_auroc, image_f1_max
from cff_edge.metrics.ranking import rank_pixels
from cff_edge.metrics.region_overlap import PRO_FPR_LIMIT, exact_area, published_area


@dataclass(frozen=True)
class Metrics:
    """Metrics of one product, fractions from 0 to 1; `pro` is `pro_as_published`."""

    pixel_auroc: float
    pixel_f1_max: float
    pixel_ap: float
    pro: float
    pro_exact: float
    image_auroc: float
    image_f1_max: float
    image_ap: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields for JSON."""
        return asdict(self)


METRIC_NAMES = tuple(field.name for field in fields(Metrics))


def evaluate(labels: ArrayLike, scores: ArrayLike, masks: ArrayLike, maps: ArrayLike) -> Metrics:
    """Return all metrics of a product, with one sort of the pixels.

    150 images of 518 x 518 pixels in float32 take some seconds and, with the arguments themselves,
    about 1 GiB.

    Parameters
    ----------
    labels : array-like of shape (n,), bool
        True where defective.
    scores : array-like of shape (n,), float
        One score an image.
    masks : array-like of shape (n, H, W), bool
        True where defective; empty for a good image.
    maps : array-like of shape (n, H, W), float32
        Anomaly maps; other types are counted exactly too, but slower.

    Raises
    ------
    DatasetError
        If the shapes do not fit, a value is not finite, only one class of images or pixels is
        present, or a good image has a mask.
    """
    is_defective, image_scores = checked_scores(labels, scores)
    truth, values = checked_maps(masks, maps)
    check_labels_fit(is_defective, truth)
    ranking = rank_pixels(truth, values)
    curve = ranking.curve()
    counts = curve.true_positives, curve.false_positives
    return Metrics(
        pixel_auroc=float(curves.auroc(*counts)),
        pixel_f1_max=float(curves.f1_max(*counts)),
        pixel_ap=float(curves.average_precision(*counts)),
        pro=published_area(ranking),
        pro_exact=exact_area(curve, PRO_FPR_LIMIT),
        image_auroc=image_auroc(is_defective, image_scores),
        image_f1_max=image_f1_max(is_defective, image_scores),
        image_ap=image_ap(is_defective, image_scores),
    )
