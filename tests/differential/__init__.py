"""modelhub beside picklescan, fickling and torch: every disagreement over the corpus has its reason."""
