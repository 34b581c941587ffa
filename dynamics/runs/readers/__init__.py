"""Readers of run directories, a trainer each.

Each module has ``LOOKED_FOR``, the files that tell its directories, in words, and ``read(folder)``, which returns a ``Run``, or None if the
directory is another trainer's. A reader never executes anything in a file, and reads side files through ``dynamics.io.side_files``.
"""
