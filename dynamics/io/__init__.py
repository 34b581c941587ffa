"""Reading and writing files: atomic writes, JSON, JSON lines, compression, threads."""
