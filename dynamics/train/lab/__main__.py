"""Make a base of the laboratory, and measure what it can do.

python -m dynamics.train.lab base runs/base-0
python -m dynamics.train.lab competence runs/base-0/base --json -
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamics.errors import InputError

if TYPE_CHECKING:
    import argparse


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the two commands; bad input raises ``InputError``."""
    options = build_parser().parse_args(argv)
    for name, least in {"seed": 0, "steps": 1, "threads": 1, "every": 1, "samples": 1}.items():
        if getattr(options, name, least) < least:
            raise InputError(f"--{name} {getattr(options, name)}: must be at least {least}")
    {"base": _base, "competence": _competence}[options.command](options)


def _base(options: argparse.Namespace) -> None:
    from dynamics.cli.command import tell
    from dynamics.cli.outputs import wrote
    from dynamics.train.lab.pretraining import Recipe, train

    recipe = Recipe(seed=options.seed, steps=options.steps, threads=options.threads)

    def progress(step: int, loss: float, tokens: int, seconds: float) -> None:
        tell(f"making a base  step {step:,}/{recipe.steps:,}  loss {loss:.3f}  {tokens:,} tokens of completions  {seconds:.0f} s")

    wrote(f"{train(recipe, Path(options.out), options.every, progress)}/")


def _competence(options: argparse.Namespace) -> None:
    from dynamics.cli.outputs import check_output, write
    from dynamics.extras import optional_import
    from dynamics.io.json import to_json
    from dynamics.train.lab.competence import Base, measure, to_dict
    from dynamics.train.lab.problems import problem_sets
    from dynamics.train.lab.terminal import show
    from dynamics.train.lab.tokenizer import is_of_laboratory

    check_output(options.json)
    with optional_import("measuring a base"):
        import torch  # noqa: F401
        import transformers  # noqa: F401
    from dynamics.models import load

    model, tokenizer = load(options.base, "cpu", "float32")
    if tokenizer is None or not is_of_laboratory(tokenizer):
        raise InputError(
            f"{options.base}: its tokenizer is not the laboratory's; give a base that `base` made, or a model trained from one"
        )
    sets = problem_sets()
    names = ("validation",) if options.set == "validation" else ("test", "deeper")
    transfer = "transfer validation" if options.set == "validation" else "transfer"
    scores = measure(Base(model, tokenizer, options.seed), [case for name in names for case in sets[name]], sets[transfer], options.samples)
    if options.json != "-":
        show(scores)
    if options.json:
        about = {"model": str(options.base), "set": options.set, "samples": options.samples, "seed": options.seed}
        write(options.json, to_json(to_dict(scores, **about)))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser
    from dynamics.train.lab.pretraining import Recipe

    recipe = Recipe()
    parser = Parser(
        prog="python -m dynamics.train.lab",
        description="Make a small base model that reasons in steps, and measure what it can do.",
        epilog="example: python -m dynamics.train.lab base runs/base-0",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{base,competence}")
    base = commands.add_parser("base", help="make a base, or go on with one that was stopped", epilog="example: base runs/base-0 --seed 0")
    base.add_argument("out", metavar="OUT", help="folder for the model (OUT/base) and the state that a stopped run goes on from")
    base.add_argument("--seed", type=int, default=recipe.seed, help="of weights and examples (default: %(default)s)")
    base.add_argument("--steps", type=int, default=recipe.steps, help="optimizer steps (default: %(default)s)")
    base.add_argument("--threads", type=int, default=recipe.threads, help="torch threads; part of the recipe (default: %(default)s)")
    base.add_argument("--every", type=int, default=500, help="steps after which the model is saved (default: %(default)s)")
    table = commands.add_parser("competence", help="measure a base by form and depth", epilog="example: competence runs/base-0/base")
    table.add_argument("base", metavar="BASE", help="Hugging Face folder of a base, or of a model trained from one")
    table.add_argument("--set", choices=("validation", "test"), default="validation", help="problems (default: %(default)s)")
    table.add_argument("--samples", type=int, default=64, help="answers a problem at temperature 1 (default: %(default)s)")
    table.add_argument("--seed", type=int, default=0, help="of these answers (default: %(default)s)")
    table.add_argument("--json", metavar="FILE", help="write the table as JSON; - for standard output")
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.lab", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
