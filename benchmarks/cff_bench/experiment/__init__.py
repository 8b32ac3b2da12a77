"""What calibration is worth: heads side by side on products never seen (docs/experiment.md)."""
