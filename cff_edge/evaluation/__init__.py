"""`cff-eval`: judge methods by few-shot cells of method, data set, product, K and seed."""
