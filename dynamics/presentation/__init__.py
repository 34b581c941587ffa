"""Shared parts of figures, pages and tables, independent of the measures."""
