"""`cff-bench search`: what looking through the memory bank costs beside the rest."""
