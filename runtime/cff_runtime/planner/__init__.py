"""The planner: the largest memory bank and the fastest precision that keep a budget."""

from cff_runtime.planner.budget import Budget, parse_budget
from cff_runtime.planner.plan import Candidate, Plan
from cff_runtime.planner.planning import Opened, Planner
from cff_runtime.planner.precisions import refusal

__all__ = ["Budget", "Candidate", "Opened", "Plan", "Planner", "parse_budget", "refusal"]
