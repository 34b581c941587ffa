"""Methods in which a model makes its own problems."""
