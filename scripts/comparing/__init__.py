"""`scripts/compare`: methods x seeds by one run configuration; the table of results."""
