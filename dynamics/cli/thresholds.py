"""The options for the thresholds of the rules ``rtol`` and ``atol``."""

from __future__ import annotations

import argparse


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add ``--rtol`` and ``--atol``."""
    parser.add_argument(
        "--rtol",
        type=float,
        default=1e-3,
        help="threshold of rule rtol, as a share of the larger of the weight's two values (default %(default)s)",
    )
    parser.add_argument(
        "--atol", type=float, default=1e-5, help="threshold of rule atol: the smallest difference that counts (default %(default)s)"
    )
