"""Metrics of the few-shot protocol, exact, and their uncertainty.

Image metrics take one score an image; pixel metrics pool all pixels of all test images of a
product, as APRIL-GAN does. Every value is a fraction from 0 to 1, never percent. In this package n
counts images and H, W are the size of the anomaly maps in pixels. `aupimo`, which needs another
package, stands apart in `cff_edge.metrics.aupimo`.
"""

from cff_edge.metrics.evidence import Evidence, collect_evidence
from cff_edge.metrics.image_level import image_ap, image_auroc, image_f1_max
from cff_edge.metrics.intervals import (
    BOOTSTRAP_METRICS,
    Difference,
    Interval,
    bootstrap_interval,
    paired_difference,
)
from cff_edge.metrics.pixel_level import pixel_ap, pixel_auroc, pixel_f1_max
from cff_edge.metrics.region_overlap import pro_as_published, pro_exact
from cff_edge.metrics.summary import METRIC_NAMES, Metrics, evaluate

__all__ = [
    "BOOTSTRAP_METRICS",
    "METRIC_NAMES",
    "Difference",
    "Evidence",
    "Interval",
    "Metrics",
    "bootstrap_interval",
    "collect_evidence",
    "evaluate",
    "image_ap",
    "image_auroc",
    "image_f1_max",
    "paired_difference",
    "pixel_ap",
    "pixel_auroc",
    "pixel_f1_max",
    "pro_as_published",
    "pro_exact",
]
