"""Readers of texts, rollouts and token log-probabilities of any trainer or inference server."""
