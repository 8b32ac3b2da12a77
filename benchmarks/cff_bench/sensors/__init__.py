"""Clocks, temperatures, watts and disturbances of a machine while it measures.

What can be read is read from the kernel's files and the makers' tools; what cannot is a dash with
the reason. Nothing is derived from a model's name or guessed otherwise.
"""

from cff_bench.sensors.discovery import find_sources, read_modes
from cff_bench.sensors.quantity import Quantity, Source
from cff_bench.sensors.quietness import judge_quietness
from cff_bench.sensors.sampler import Sampler
from cff_bench.sensors.summary import SensorRow, sensor_rows, sensor_table

__all__ = [
    "Quantity",
    "Sampler",
    "SensorRow",
    "Source",
    "find_sources",
    "judge_quietness",
    "read_modes",
    "sensor_rows",
    "sensor_table",
]
