"""Inspect parts on a box without PyTorch: bundles, profiles, memory-bank scoring, verdicts.

Dimension letters, the same in every docstring of the project:

B batch; h, w image size in pixels; H, W network input size in pixels; S stages; N_s tokens of
stage s, row-major on its grid; E_s width of stage s in the backbone; C joint dimension; C_s width
of the exported features of stage s (C, or less where the rank fold applies); K reference images;
M_s = K * N_s rows of the memory bank of stage s.

Importing this package loads neither PyTorch nor ONNX Runtime; a backend is imported when it is
opened. ONNX Runtime 1.31 starts a thread that reports usage unless ``ORT_DISABLE_TELEMETRY`` is set
before its import; it is set here where it is not set.
"""

import os

from cff_runtime.bundle import Bundle
from cff_runtime.inspector import Inspector
from cff_runtime.profile import Profile
from cff_runtime.result import Region, Result

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Bundle", "Inspector", "Profile", "Region", "Result"]
