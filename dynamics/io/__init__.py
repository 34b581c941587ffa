"""Reading and writing files: atomic writes, JSON, compression, threads."""
