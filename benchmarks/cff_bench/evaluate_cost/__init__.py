"""`cff-bench evaluate-cost`: time and memory that `cff-eval` takes for its metrics."""
