"""Reading and writing files: files and folders written whole or not at all, locks, JSON, JSON lines, compression; threads."""
