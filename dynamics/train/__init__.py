"""SFT, RLVR and self-play on one training loop that writes run directories, and a small built-in base model."""
