"""The option ``--hash``, and that parts of a comparison know nothing of whole checkpoints."""

from __future__ import annotations

import argparse

from dynamics.errors import InputError


def add_hash(parser: argparse.ArgumentParser) -> None:
    """Add ``--hash``."""
    parser.add_argument(
        "--hash",
        action="store_true",
        help="also write a digest of each checkpoint's weights into the report, of the bytes that are compared (sha256: takes longer)",
    )


def refuse_in_parts(options: argparse.Namespace, *names: str) -> None:
    """Refuse options of these names together with ``--part`` and ``--scheduler``."""
    for name in names:
        if getattr(options, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: a part does not read whole checkpoints; leave it out of --part and --scheduler")
