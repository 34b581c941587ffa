"""``dynamics COMMAND ...`` is ``python -m dynamics.COMMAND ...``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

#: command -> the question that it answers, and how
COMMANDS = {
    "report": ("What did this run do to the model?", "one page from the output directory of a training run, or of several"),
    "sparsity": ("Which weights moved?", "compare two checkpoints weight by weight, or a series of them"),
    "overlap": ("Did several runs move the same weights?", "compare the updates of one base with each other and with chance"),
    "spectra": ("In which directions did they move?", "rank, principal angles and spectral drift of every matrix's update"),
    "entropy": ("Where is the model unsure?", "entropy of every token over texts or rollouts, of one model or two"),
    "passk": ("How much can it solve?", "pass@k of graded samples with intervals, models compared pairwise"),
    "games": ("What did proposers and solvers do?", "claims, agreement, diversity and structure over the training of a game"),
    "train": ("How do I get a run to measure?", "train the small embedded model, or any other, by SFT, RLVR or self-play"),
}

#: first arguments that ask for help
HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names; give its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in HELP and arguments[1:]:  # ``dynamics help sparsity`` is ``dynamics sparsity --help``
        arguments = [*arguments[1:], "--help"]
    if arguments and arguments[0] in COMMANDS:
        status: int = importlib.import_module(f"dynamics.{arguments[0]}.__main__").cli(arguments[1:])
        return status
    from dynamics.cli.command import run

    return run("dynamics", _answer, arguments)


def _answer(arguments: Sequence[str] | None) -> None:
    """Print the list of commands or the version; refuse a command that does not exist."""
    if not arguments or arguments[0] in HELP:
        from dynamics.cli.command import wrap_to_terminal

        print(wrap_to_terminal(usage()))
        return
    if arguments[0] in ("-V", "--version"):
        from dynamics import __version__

        print(__version__)
        return
    from dynamics.errors import InputError, did_you_mean, printable

    command, commands = arguments[0], f"there are {', '.join(COMMANDS)}"
    raise InputError(f"{printable(command)}: no such command{did_you_mean(command, COMMANDS) or f'; {commands}'}")


def usage() -> str:
    """List the commands."""
    lines = [
        line for name, (question, description) in COMMANDS.items() for line in (f"  {name:<10} {question}", f"  {'':<10}   {description}")
    ]
    return "\n".join(
        [
            "usage: dynamics COMMAND ...        (the same as python -m dynamics.COMMAND ...)",
            "",
            "What did this post-training run do to the model?",
            "",
            *lines,
            "",
            "example: dynamics report runs/grpo",
            "dynamics COMMAND --help lists the options of a command, with an example.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
