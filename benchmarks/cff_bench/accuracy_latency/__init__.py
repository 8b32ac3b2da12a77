"""`cff-bench accuracy-latency`: what one exported artefact finds, and how long it takes."""
