"""Training loops that write run directories: SFT and RLVR on one loop, and a small base model made on the spot."""
