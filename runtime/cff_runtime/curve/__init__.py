"""The learning curve: what one more reference would bring, from the parts at hand."""

from cff_runtime.curve.gallery import Gallery, Probe, build_gallery
from cff_runtime.curve.intervals import Estimate, estimate
from cff_runtime.curve.points import Curve, Point, measure_curve
from cff_runtime.curve.statement import point_statement, statement

__all__ = [
    "Curve",
    "Estimate",
    "Gallery",
    "Point",
    "Probe",
    "build_gallery",
    "estimate",
    "measure_curve",
    "point_statement",
    "statement",
]
