"""The options ``--part``, ``--merge`` and ``--scheduler``, and what a command does with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from dynamics.cluster.work import Open, Record
from dynamics.errors import InputError, printable

Result = TypeVar("Result")
#: outputs that show a whole comparison
WHOLE = ("csv", "html", "figure")


def add_cluster(parser: argparse.ArgumentParser, unit: str) -> None:
    """Add the options; ``unit`` names what a comparison consists of: tensors or matrices."""
    parser.add_argument(
        "--part",
        metavar="I/N",
        help=f"compute only part I of N of the {unit}, and write it to the file of --json; parts are numbered from 1",
    )
    parser.add_argument(
        "--merge",
        metavar="PART",
        nargs="+",
        help="in place of checkpoints: the files of all parts, which give what one process gives",
    )


def check(options: argparse.Namespace, parser: argparse.ArgumentParser, names: dict[str, str], least: int = 2) -> None:
    """Check that checkpoints or parts are named, and that no option is given that would not count.

    Parameters
    ----------
    options, parser : after parsing; positional arguments are ``None`` or empty where they are not given.
    names : positional argument -> how the help calls it.
    least : how many of them must be given without ``--merge``.
    """
    given = [name for name in names if getattr(options, name)]
    if options.merge:
        if given:
            parser.error("--merge takes the files of parts in place of checkpoints")
        for name in ("part", "scheduler"):
            if getattr(options, name, None):
                parser.error(f"argument --{name}: not allowed with argument --merge")
        changed = [action.option_strings[0] for action in parser._actions if _counts(action) and getattr(options, action.dest) != action.default]
        if changed:
            parser.error(f"argument {changed[0]}: is what the parts were made with, or not used in merging; leave it out")
        return
    missing = [text for name, text in list(names.items())[:least] if not getattr(options, name)]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    if options.part:
        if getattr(options, "scheduler", None):
            parser.error("argument --scheduler: not allowed with argument --part")
        if not options.json:
            parser.error("--part needs --json FILE, which the part is written to")
        if drawn := next((name for name in WHOLE if getattr(options, name)), None):
            parser.error(f"argument --{drawn}: shows a whole comparison; give it to --merge")


def _counts(action: argparse.Action) -> bool:
    """Whether an option has no effect on merging: all but outputs and the exit status."""
    return bool(action.option_strings) and action.dest not in ("help", "merge", "json", "allow_partial", "part", "scheduler", *WHOLE)


def is_asked_for(options: argparse.Namespace) -> bool:
    """Whether one of the options is given, so that ``run`` takes the place of the comparison in this process."""
    return bool(options.part or options.merge)


def run(
    options: argparse.Namespace,
    measure: str,
    open_work: Open,
    sources: Sequence[str],
    settings: dict[str, Any],
    result: Callable[[Record, list[Any]], Result],
) -> Result | None:
    """Do what the options ask for.

    Parameters
    ----------
    options : the parsed options, checked by ``check``.
    measure : name of the command.
    open_work, sources, settings : see ``work.Open``.
    result : (record, tally of every unit) -> what one process computes.

    Returns
    -------
    The result; None if a part was written to the file of ``--json``.
    """
    if options.merge:
        return _merged(measure, options.merge, result)
    _write_part(options, measure, open_work, sources, settings)
    return None


def _write_part(options: argparse.Namespace, measure: str, open_work: Open, sources: Sequence[str], settings: dict[str, Any]) -> None:
    """Compute the part of ``--part`` and write it to the file of ``--json``."""
    from dynamics.cli.command import tell
    from dynamics.cli.outputs import write
    from dynamics.cli.progress import ProgressBar
    from dynamics.cluster.parts import deal, make, parse

    number, count = parse(options.part)
    with ProgressBar("comparing", compiles=True) as bar:
        work = open_work(list(sources), settings)
        content = make(work, number, count, getattr(options, "threads", None), bar)
    sizes = work.record.sizes
    units = deal(sizes, count)[number - 1]
    share = sum(sizes[unit] for unit in units) / max(1, sum(sizes))
    tell(f"{measure}: part {number}/{count}: {len(units):,} of {len(sizes):,}, {share:.1%} of the bytes")
    write(options.json, content)


def _merged(measure: str, paths: Sequence[str], result: Callable[[Record, list[Any]], Result]) -> Result:
    """Merge the files of ``--merge``."""
    from dynamics.cluster.parts import merge

    record, tallies = merge(measure, paths)
    try:
        return result(record, tallies)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, StopIteration):
        raise InputError(f"{printable(paths[0])}: does not hold what {measure} writes into a part; make it again") from None
