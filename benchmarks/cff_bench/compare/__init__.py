"""Two reports beside each other, with intervals, and a report against a budget."""
