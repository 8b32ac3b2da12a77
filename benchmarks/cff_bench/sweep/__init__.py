"""`cff-bench sweep`: what changes the time of an inspection, axis by axis, and by which law."""
