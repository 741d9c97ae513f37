"""Where a pass runs, and where its results are."""
