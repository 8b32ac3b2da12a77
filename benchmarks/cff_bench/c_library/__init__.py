"""libcff beside the Python runtime: time, memory, and whether memory stays flat."""
