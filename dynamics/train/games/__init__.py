"""Self-play: methods in which the model proposes its own problems."""
