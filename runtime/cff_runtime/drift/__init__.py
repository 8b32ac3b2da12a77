"""Has the line changed since it was commissioned? Told from scores and pictures, without labels."""

from cff_runtime.drift.alarm import Alarm
from cff_runtime.drift.monitor import DriftMonitor
from cff_runtime.drift.observer import drift_observers
from cff_runtime.drift.replay import replay

__all__ = ["Alarm", "DriftMonitor", "drift_observers", "replay"]
