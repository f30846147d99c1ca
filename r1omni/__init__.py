"""R1-Omni (arXiv 2503.05379) as a reproducible pipeline."""
