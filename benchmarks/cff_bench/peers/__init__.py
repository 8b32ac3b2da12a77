"""Whole inspections of this project and of what a user would otherwise run, on one machine."""
