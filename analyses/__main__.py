"""Rebuild the figures: ``python -m analyses [NAME ...]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from analyses import ANALYSES, NEEDS, QUICK, Request
from analyses.presets import BLOCKS, PRESETS, made_with, runs_folder, written_out
from dynamics.cli.command import Parser, run, tell
from dynamics.cli.outputs import wrote
from dynamics.cluster.options import add_scheduler
from dynamics.errors import InputError, did_you_mean, printable
from dynamics.extras import require

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild the figures that are named on the command line; return the exit status."""
    return run("analyses", _rebuild, arguments)


def _rebuild(arguments: Sequence[str] | None) -> None:
    options = build_parser().parse_args(arguments)
    unknown = [name for name in options.names if name not in ANALYSES]
    if unknown:
        choices = f"there are {', '.join(ANALYSES)}"
        raise InputError(f"{printable(unknown[0])}: no such analysis; {choices}{did_you_mean(unknown[0], ANALYSES)}")
    if options.dry_run:
        for preset in dict.fromkeys("games" if name == "games" else options.preset for name in options.names or ("comparison",)):
            block = None if preset == "games" else options.block
            for each in made_with(preset):
                print("\n".join(written_out(each, runs_folder(each, options.runs), block)))
        return
    request = Request(options.runs, options.figures, options.force, options.preset, options.block, options.scheduler)
    names = options.names or QUICK
    for name in names:  # before the first of them writes anything
        require(NEEDS[name], f"the analysis {name}")
    tell(f"plan: {', then '.join(names)}")
    written: list[Path] = []
    for number, name in enumerate(names, start=1):
        tell(f"{number}/{len(names)} {name}")
        for path in ANALYSES[name](request):
            wrote(path)
            written.append(path)
    if pages := [path for path in written if path.suffix == ".html"]:
        tell(f"open {pages[-1].resolve()} in a browser")


def build_parser() -> Parser:
    """Build the parser of the command line."""
    parser = Parser(
        prog="python -m analyses",
        description="Rebuild the figures, each with its table (.csv). Finished runs are used again.",
        epilog="example: python -m analyses precision --force",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"analyses to run: {', '.join(ANALYSES)} (default: {' '.join(QUICK)})")
    parser.add_argument("--force", action="store_true", help="train all runs again, including finished ones")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the run directories (default: runs/)")
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", help="folder of the figures (default: figures/)")
    parser.add_argument(
        "--preset",
        default="default",
        choices=[name for name in PRESETS if name != "games"],
        help="model, number of runs and steps of `comparison` (default: %(default)s)",
    )
    parser.add_argument(
        "--block", choices=BLOCKS, help="train only these runs of the preset: methods with variants and controls, or the grid of settings"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of `comparison` or `games` without running them")
    add_scheduler(parser, "train the runs of `comparison` or `games`")
    return parser


if __name__ == "__main__":
    sys.exit(main())
