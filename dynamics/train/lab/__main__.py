"""Make a base of the laboratory, and measure what it can do.

python -m dynamics.train.lab base runs/base-0
python -m dynamics.train.lab competence runs/base-0/base --json -
python -m dynamics.train.lab pack runs/base-0/base base-0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics.train.lab.competence import Score

#: problems of a table
SETS = ("validation", "test")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands; bad input raises ``InputError``."""
    options = build_parser().parse_args(argv)
    for name, least in {"seed": 0, "steps": 1, "threads": 1, "every": 1, "samples": 1}.items():
        if getattr(options, name, least) < least:
            raise InputError(f"--{name} {getattr(options, name)}: must be at least {least}")
    {"base": _base, "competence": _competence, "pack": _pack}[options.command](options)


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
    from dynamics.io.json import to_json
    from dynamics.train.lab.terminal import show

    check_output(options.json)
    scores, document = _measured(options.base, options.base, options.set, options.samples, options.seed)
    if options.json != "-":
        show(scores)
    if options.json:
        write(options.json, to_json(document))


def _measured(base: str, name: str, chosen: str, samples: int, seed: int) -> tuple[list[Score], dict[str, Any]]:
    """Return the scores of a base in a folder on the validation or test sets, and their JSON document with ``name`` as the model."""
    from dynamics.extras import optional_import
    from dynamics.train.lab.competence import Base, measure, to_dict
    from dynamics.train.lab.problems import problem_sets

    with optional_import("measuring a base"):
        import torch  # noqa: F401
        import transformers  # noqa: F401
    from dynamics.models import load

    model, tokenizer = load(base, "cpu", "float32")
    _check_tokenizer(base, tokenizer)
    sets = problem_sets()
    names = ("validation",) if chosen == "validation" else ("test", "deeper")
    transfer = "transfer validation" if chosen == "validation" else "transfer"
    scores = measure(Base(model, tokenizer, seed), [case for name in names for case in sets[name]], sets[transfer], samples)
    return scores, to_dict(scores, model=name, set=chosen, samples=samples, seed=seed)


def _check_tokenizer(base: str, tokenizer: Any) -> None:
    from dynamics.train.lab.tokenizer import is_of_laboratory

    if tokenizer is None or not is_of_laboratory(tokenizer):
        raise InputError(f"{base}: its tokenizer is not the laboratory's; give a base that `base` made, or a model trained from one")


def _pack(options: argparse.Namespace) -> None:
    from dynamics.cli.command import tell
    from dynamics.cli.outputs import wrote
    from dynamics.extras import optional_import
    from dynamics.io.folders import save_folder
    from dynamics.io.json import to_json

    with optional_import("packing a base"):
        import torch
        import transformers  # noqa: F401
    from dynamics.models import load, save_quietly

    recipe = Path(options.base) / "recipe.json"
    if not recipe.is_file():
        raise InputError(f"{options.base}: has no recipe.json; give a base that `base` made")
    model, tokenizer = load(options.base, "cpu", "float32")
    _check_tokenizer(options.base, tokenizer)

    def fill(path: Path) -> None:
        save_quietly(model.to(torch.bfloat16), tokenizer, path)
        (path / "recipe.json").write_bytes(recipe.read_bytes())
        for chosen in options.sets:
            tell(f"packing a base  measuring the {chosen} sets, {options.samples} answers a problem")
            _, document = _measured(str(path), Path(options.out).name, chosen, options.samples, 0)
            (path / f"competence-{chosen}.json").write_text(to_json(document), encoding="utf-8")

    save_folder(Path(options.out), fill, "give another folder")
    wrote(f"{options.out}/")


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
    commands = parser.add_subparsers(dest="command", required=True, metavar="{base,competence,pack}")
    base = commands.add_parser("base", help="make a base, or go on with one that was stopped", epilog="example: base runs/base-0 --seed 0")
    base.add_argument("out", metavar="OUT", help="folder for the model (OUT/base) and the state that a stopped run goes on from")
    base.add_argument("--seed", type=int, default=recipe.seed, help="of weights and examples (default: %(default)s)")
    base.add_argument("--steps", type=int, default=recipe.steps, help="optimizer steps (default: %(default)s)")
    base.add_argument("--threads", type=int, default=recipe.threads, help="torch threads; part of the recipe (default: %(default)s)")
    base.add_argument("--every", type=int, default=500, help="steps after which the model is saved (default: %(default)s)")
    table = commands.add_parser("competence", help="measure a base by form and depth", epilog="example: competence runs/base-0/base")
    table.add_argument("base", metavar="BASE", help="Hugging Face folder of a base, or of a model trained from one")
    table.add_argument("--set", choices=SETS, default="validation", help="problems (default: %(default)s)")
    table.add_argument("--samples", type=int, default=64, help="answers a problem at temperature 1 (default: %(default)s)")
    table.add_argument("--seed", type=int, default=0, help="of these answers (default: %(default)s)")
    table.add_argument("--json", metavar="FILE", help="write the table as JSON; - for standard output")
    pack = commands.add_parser("pack", help="store a base in bfloat16 with its tables", epilog="example: pack runs/base-0/base base-0")
    pack.add_argument("base", metavar="BASE", help="Hugging Face folder of a base")
    pack.add_argument("out", metavar="OUT", help="folder for the model, its recipe and its tables")
    pack.add_argument("--samples", type=int, default=64, help="answers a problem at temperature 1 (default: %(default)s)")
    pack.add_argument("--sets", type=_sets, default=["validation"], help="validation, test, or validation,test (default: %(default)s)")
    return parser


def _sets(text: str) -> list[str]:
    """Read the names of sets, separated by commas."""
    found = text.split(",")
    if not set(found) <= set(SETS):
        raise argparse.ArgumentTypeError(f"{text!r}: must be some of {', '.join(SETS)}")
    return found


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.train.lab", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
