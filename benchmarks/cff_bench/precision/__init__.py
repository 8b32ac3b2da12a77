"""What a bundle's precisions cost and change: `speed` on this CPU, `drift` on real images."""
