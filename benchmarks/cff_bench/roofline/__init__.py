"""The machine's measured ceilings, and how far the graphs of a bundle are from them."""
