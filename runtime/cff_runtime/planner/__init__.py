"""The planner: the largest memory bank and the fastest precision that keep a budget.

`timing` and `memory` measure the box and model it, `planning` chooses, enrols and measures again,
`loss` says what that decides otherwise, `advice` and `report` tell. Importing this package loads
none of them.
"""

from cff_runtime.planner.command import add_plan_parser

__all__ = ["add_plan_parser"]
