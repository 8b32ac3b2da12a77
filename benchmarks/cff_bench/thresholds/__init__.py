"""Do the promises of thresholds hold? By simulation, and on good parts that no bank has seen."""
