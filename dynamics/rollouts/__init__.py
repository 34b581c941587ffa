"""Texts, prompts with completions, and token log-probabilities, of any trainer or server."""
