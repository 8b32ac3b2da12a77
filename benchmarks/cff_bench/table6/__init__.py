"""The paper's Table 6, the heads alone, and what folding makes of it."""
