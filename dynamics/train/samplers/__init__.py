"""Samplers, which draw completions from a policy."""
