"""``dynamics COMMAND ...`` is ``python -m dynamics.COMMAND ...``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "sparsity": "which weights moved: update sparsity of one checkpoint against another",
    "spectra": "the shape of an update: rank, spectral drift, principal angles of every matrix",
    "overlap": "did two updates move the same weights: overlap of their masks beside chance",
    "entropy": "where it is unsure: per-token entropy of a model over text or rollouts",
    "passk": "how much can it solve: pass@k of graded samples, with intervals, compared pairwise",
    "train": "make a run to measure: SFT, RLVR or self-play of a small model made on the spot, or of any other",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; give its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from dynamics import __version__

        print(__version__)
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        print(f"dynamics: error: no command {command!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    status: int = importlib.import_module(f"dynamics.{command}.__main__").cli(arguments[1:])
    return status


def usage() -> str:
    """List the commands."""
    lines = [f"  {name:<10} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dynamics COMMAND ...        (the same as python -m dynamics.COMMAND ...)",
            "",
            "What did this post-training run do to the model?",
            "",
            *lines,
            "",
            "dynamics COMMAND --help says more, with an example.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
