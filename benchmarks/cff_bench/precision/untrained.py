"""A bundle of a backbone with an untrained head, for speed alone."""

import logging
from collections.abc import Sequence
from pathlib import Path

from cff_bench.precision.eager import untrained_head
from cff_edge.backbones import load_backbone
from cff_edge.config import load_config
from cff_export.exporter import export_bundle
from cff_export.variants import extend_bundle
from cff_runtime.bundle import Bundle

log = logging.getLogger(__name__)


def export_untrained(
    name: str, weights: str | None, image_size: int | None, precisions: Sequence[str], out: Path
) -> tuple[Bundle, dict[str, str]]:
    """Export a backbone with an untrained head, and add precisions.

    Parameters
    ----------
    name, weights, image_size
        As in `load_backbone`; None takes what the backbone is trained with by default.
    precisions : sequence of str
        Besides fp32.
    out : Path
        Folder to write.

    Returns
    -------
    Bundle
    dict of str to str
        Precisions that the parity gate or the exporter refused, each with the reason.

    Raises
    ------
    CffError
        Whatever building the backbone and exporting raise.
    """
    chosen = {"name": name, "weights": weights, "image_size": image_size}
    overrides = [f"backbone.{key}={value}" for key, value in chosen.items() if value is not None]
    config = load_config(None, overrides)
    weights, image_size = config.backbone.weights, config.backbone.image_size
    log.info("building %s, %s weights, %d px, untrained head", name, weights, image_size)
    backbone = load_backbone(name, weights, image_size)
    head = untrained_head(backbone.info, config.head.calibrator)
    bundle = export_bundle(backbone, head, config, out)
    del backbone, head  # of a ViT-L more than a gigabyte, and graphs of that size follow
    if not precisions:
        return bundle, {}
    bundle, outcomes = extend_bundle(out, out, precisions)
    return bundle, {o.precision: o.refused for o in outcomes if o.refused}
