"""Rebuild the figures: ``python -m analyses [NAME ...]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analyses import ANALYSES, QUICK, Request
from analyses.launch import print_progress
from analyses.presets import PRESETS, commands, runs_folder
from dynamics import InputError

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Rebuild the figures that are named on the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses",
        description="Rebuild the figures, each with the table it draws beside it (.csv). Runs that are there are used again.",
        epilog="example: python -m analyses precision --force",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to rebuild, of {', '.join(ANALYSES)} (default: {' '.join(QUICK)})")
    parser.add_argument("--force", action="store_true", help="redo the training runs too, even where finished ones are there")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where run directories live (default: runs/)")
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", help="where figures go (default: figures/)")
    parser.add_argument(
        "--preset", default="default", choices=list(PRESETS), help="how much `comparison` trains, and of what (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands of `comparison` and run none")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in ANALYSES]
    if unknown:
        parser.error(f"no analysis is called {unknown[0]!r}; there are {', '.join(ANALYSES)}")
    if options.dry_run:
        print("\n".join(commands(options.preset, runs_folder(options.preset, options.runs))))
        return 0
    request = Request(options.runs, options.figures, options.force, options.preset)
    names = options.names or QUICK
    print_progress(f"plan: {', then '.join(names)}")
    written: list[Path] = []
    try:
        for number, name in enumerate(names, start=1):
            print_progress(f"{number}/{len(names)} {name}")
            paths = ANALYSES[name](request)
            written += paths
            print("\n".join(map(str, paths)), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if pages := [path for path in written if path.suffix == ".html"]:
        print_progress(f"open {pages[-1].resolve()} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
