"""Where the milliseconds of one inspection go, stage by stage, as the line sees them.

The stages are the runtime's own: preprocess, encode, search, finish. Reading the file is measured
as `decode` (0 for an image in memory), copies to and from a device where they can be told apart,
and what `inspect` takes beyond its stages is `other`. The total is wall clock around one inspection
of one image.

PyTorch is never imported.
"""

from cff_bench.latency.images import noise_image
from cff_bench.latency.measurement import run, run_latency
from cff_bench.latency.settings import LatencySettings

__all__ = ["LatencySettings", "noise_image", "run", "run_latency"]
