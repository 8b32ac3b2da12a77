"""`cff-run doctor`: what a box is, what a bundle needs, and the command that mends a mismatch.

`probe` collects facts, `needs` reads a bundle, `matrix` holds what fits what as data with sources,
`routes` and `advice` are pure functions over these three, `report` writes them down.

Run so far on a machine without a GPU only. What it says of GPUs, Jetsons and TensorRT follows from
public sources and from boxes laid out in the tests, and was never seen on real hardware.
"""

from cff_runtime.doctor.command import add_doctor_parser

__all__ = ["add_doctor_parser"]
