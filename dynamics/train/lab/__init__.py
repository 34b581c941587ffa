"""The laboratory: a language in which problems can be new, and in which a small model can reason."""
