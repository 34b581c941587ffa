"""The option ``--allow-partial``, and the exit status of a comparison that left parameters out."""

from __future__ import annotations

import argparse

from dynamics.cli.command import IncompleteError


def add_allow_partial(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-partial``."""
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="exit with status 0, not 3, when more than 0.1 %% of the parameters of a checkpoint could not be compared",
    )


def check_complete(incomplete: str, options: argparse.Namespace) -> None:
    """Raise ``IncompleteError`` if parameters were left out, unless that is allowed. Call it after the report is written."""
    if incomplete and not options.allow_partial:
        raise IncompleteError(f"{incomplete}; the report lists them (--allow-partial accepts this)")
