"""Reduced precisions of a finished encoder, and the search for what must stay in float32.

Everything works on the ONNX graph alone, without PyTorch, so a bundle that exists can get another
precision on any machine. One transformation a file: `half`, `int8_dynamic`, `int8_qdq`; `emulate`
makes what a GPU would compute runnable on the CPU.
"""

from cff_export.precision.calibration import CalibrationSet, calibration_images
from cff_export.precision.candidate import PRECISIONS, Candidate, build_candidate, graph_blocks
from cff_export.precision.probe import StageProbe
from cff_export.precision.repair import Judgement, Repair, Trial, repair
from cff_export.precision.speed import Timing, compare_speed

__all__ = [
    "PRECISIONS",
    "CalibrationSet",
    "Candidate",
    "Judgement",
    "Repair",
    "StageProbe",
    "Timing",
    "Trial",
    "build_candidate",
    "calibration_images",
    "compare_speed",
    "graph_blocks",
    "repair",
]
