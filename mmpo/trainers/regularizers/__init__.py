"""Regularizers of the adapter: flatter minima, noise and orthogonality, as options of any training run."""
