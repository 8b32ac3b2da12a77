"""How soon drift monitoring sees planted drifts, and how quiet it is without one."""
