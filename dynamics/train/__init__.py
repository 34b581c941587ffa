"""Training loops that write run directories: SFT, RLVR and self-play on one loop, and a small base model made on the spot."""
