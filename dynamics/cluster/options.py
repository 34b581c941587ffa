"""The options ``--part``, ``--merge`` and ``--scheduler``, and what a command does with them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    from dynamics.cluster.work import Open, Record

Result = TypeVar("Result")
#: outputs that show a whole comparison
WHOLE = ("csv", "html", "figure")
#: what else has a meaning with --merge
MERGED = ("merge", "json", "allow_partial")


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
        action=_Merge,
        help="in place of checkpoints: the files of all parts, which give what one process gives",
    )
    add_scheduler(parser, f"compare the {unit}")


def add_scheduler(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--scheduler``; ``what`` is done by the workers."""
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help=f"{what} by the workers of this Dask scheduler (tcp://host:8786, or its scheduler file); local: by a process per core",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, shows: Sequence[str] = ()) -> argparse.Namespace:
    """Parse the command line of a measure, whose positional arguments are checkpoints, and check that no option is given in vain.

    Parameters
    ----------
    parser : with the options of ``add_cluster``; to be used once.
    argv : arguments; those of this process if None.
    shows : options that only say how a result is shown, so that ``--merge`` takes them too.
    """
    options = parser.parse_args(argv)
    if options.merge:
        if any(getattr(options, action.dest) for action in parser._actions if not action.option_strings):
            parser.error("--merge takes the files of parts in place of checkpoints")
        given = [action for action in parser._actions if getattr(options, action.dest, action.default) != action.default]
        if unused := next((action for action in given if action.dest not in (*MERGED, *WHOLE, *shows)), None):
            parser.error(f"argument {unused.option_strings[0]}: is of no use with --merge: parts hold the options that they were made with")
    elif options.part:
        if options.scheduler:
            parser.error("argument --scheduler: not allowed with argument --part")
        if not options.json:
            parser.error("--part needs --json FILE, which the part is written to")
        if drawn := next((name for name in WHOLE if getattr(options, name)), None):
            parser.error(f"argument --{drawn}: shows a whole comparison; give it to --merge")
    return options


class _Merge(argparse.Action):
    """The files of parts take the place of checkpoints."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        for action in parser._actions:
            if not action.option_strings:
                action.required = False
        setattr(namespace, self.dest, values)


def is_asked_for(options: argparse.Namespace) -> bool:
    """Whether one of the options is given, so that ``run`` takes the place of the comparison in this process."""
    return bool(options.part or options.merge or options.scheduler)


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
    options : what ``parse`` returns.
    measure : name of the command.
    open_work, sources, settings : see ``work.Open``.
    result : (record, tally of every unit) -> what one process computes.

    Returns
    -------
    The result; None if a part was written to the file of ``--json``.
    """
    from dynamics.cli.progress import ProgressBar

    if options.merge:
        return _merged(measure, options.merge, result)
    if options.part:
        _write_part(options, measure, open_work, sources, settings)
        return None
    with ProgressBar("comparing") as bar:
        from dynamics.cluster.scheduler import compute

        work = open_work(list(sources), settings)
        return result(work.record, compute(work, open_work, sources, settings, options.scheduler, bar))


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
