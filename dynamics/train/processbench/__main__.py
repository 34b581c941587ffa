"""Let a critic look for the first wrong step of solutions, in files of the format of ProcessBench.

python -m dynamics.train.processbench runs/spc/checkpoints/step_000100 gsm8k.jsonl

Each line is a solution: ``id``, ``problem``, ``steps``, ``label`` (index of the first wrong step, -1 if all are right) and
``final_answer_correct``. The critic judges the steps in order, until it calls one wrong; a step without a verdict counts as right.
A solution is judged correctly if that step is the one of the label, or none is and none should be.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; bad input raises ``InputError``."""
    from dynamics.cli.outputs import check_output, write
    from dynamics.extras import require
    from dynamics.io.json import to_json
    from dynamics.train.processbench.judging import first_wrong, read, report

    options = build_parser().parse_args(argv)
    check_output(options.json)
    solutions = read(options.file)
    require(("torch", "transformers"), "judging")
    from dynamics.models import check_model
    from dynamics.train import policy
    from dynamics.train.tasks.prompt_formats import language_of

    check_model(options.model)
    critic = policy.load(options.model, None if options.device == "auto" else options.device, "float32", "auto")
    if language_of(critic.tokenizer) != "plain":
        raise InputError(f"{printable(options.model)}: reads a notation of this project, and no plain text; give another model")
    document = report(solutions, first_wrong(critic, solutions, options.max_new_tokens))
    if options.json != "-":
        for name, words in (("erroneous", "with a wrong step"), ("correct", "without"), ("f1", "harmonic mean (F1)")):
            value = document[name]
            print(f"{words:20} {value['value']:.3f}  [{value['low']:.3f}, {value['high']:.3f}]  of {value['count']}")
    if options.json:
        write(options.json, to_json(document))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.train.processbench",
        description="Let a critic look for the first wrong step of solutions, in a file of the format of ProcessBench.",
        epilog="example: python -m dynamics.train.processbench runs/spc/checkpoints/step_000100 gsm8k.jsonl",
    )
    parser.add_argument("model", metavar="MODEL", help="smollm2, a Hugging Face folder, or a Hub id")
    parser.add_argument("file", metavar="FILE", help="JSON lines with id, problem, steps, label and final_answer_correct")
    parser.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="maximum length of a judgement in tokens (256)")
    parser.add_argument("--device", default="auto", help="device to compute on: auto, cpu, cuda, ... (auto)")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.processbench", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
