"""Sections of a report: each module has ``make(runs, options)``, which returns a ``Section``."""
