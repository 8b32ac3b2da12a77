"""The demo: train, export, enrol, inspect and report, through the command lines."""
