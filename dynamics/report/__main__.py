"""The command ``python -m dynamics.report``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError, printable

if TYPE_CHECKING:
    import argparse

    from dynamics.report.assembly import Report
    from dynamics.report.section import Options

#: name of the cache beside the page
CACHE = ".dynamics-cache"
PAGE = "report.html"
#: seconds between two looks at the directories
SHORTEST, LONGEST = 0.1, 86_400


def main(argv: Sequence[str] | None = None) -> None:
    """Make the report, and again when the directories change if that is asked for."""
    from dynamics.cli.command import Terminated, tell

    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(arguments)
    _check(options)
    state = _state(options) if options.watch is not None else []
    incomplete = _once(options, arguments)
    if options.watch is None:
        return _end(incomplete, options)
    tell(f"dynamics.report: makes the page again when the directories change, looked at every {options.watch:g} s; Ctrl-C ends it")
    try:
        while True:
            time.sleep(options.watch)
            if (now := _state(options)) != state:
                state = now
                try:
                    incomplete = _once(options, arguments)
                except InputError as error:  # such as a directory that is being moved
                    tell(f"dynamics.report: {error}")
    except Terminated:
        raise
    except KeyboardInterrupt:
        return _end(incomplete, options)


def _check(options: argparse.Namespace) -> None:
    """Check the options and the outputs before the work starts."""
    from dynamics.cli.outputs import check_outputs
    from dynamics.report.files import check_folder

    if options.seed < 0:
        raise InputError("--seed: must be at least 0")
    for option, values in (("RUN", options.runs), ("--base", [options.base]), ("--evals", options.evals), ("--texts", options.texts)):
        if "" in values:
            raise InputError(f"{option}: is empty; name a file or a folder")
    _check_texts(options)
    if options.html == "-":
        raise InputError("--html -: a page is written to a file; name one")
    check_outputs(options, [*options.runs, *options.texts, *options.evals], {options.markdown: (".md", ".markdown")})
    if options.out is not None:
        check_folder(options.out)
    if options.watch is not None and not SHORTEST <= options.watch <= LONGEST:
        raise InputError(f"--watch: must be a number of seconds from {SHORTEST:g} to {LONGEST:,}")


def _check_texts(options: argparse.Namespace) -> None:
    """Refuse texts that are not there or empty; say so if they are not used."""
    from dynamics.cli.command import tell
    from dynamics.io.paths import no_such_path

    for path in map(Path, options.texts):
        if not path.exists():
            raise InputError(f"--texts: {no_such_path(path)}")
        if path.is_file() and not path.stat().st_size:
            raise InputError(f"--texts: {printable(path)}: is empty; give a file with texts")
    if options.texts and options.model_passes is False:
        tell("dynamics.report: --texts is not used: with --no-model-passes, no model reads them")


def _end(incomplete: list[str], options: argparse.Namespace) -> None:
    from dynamics.cli.command import IncompleteError

    if incomplete and not options.allow_partial:
        more = f" (and {len(incomplete) - 1} more)" if len(incomplete) > 1 else ""
        raise IncompleteError(f"{printable(incomplete[0], 1500)}{more}; the report lists what was left out (--allow-partial accepts this)")


def _once(options: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """Make the report and write the outputs; return what it leaves out."""
    from dynamics.cli.command import reader_may_leave
    from dynamics.report.assembly import open_runs, report
    from dynamics.report.updates import command

    runs, problems = open_runs(options.runs)
    with _Stages() as stages:
        result = report(runs, _options(options, stages.show))
        result.incomplete[:0] = problems
        result.command = command("report", *arguments)
        if result.is_empty and options.json is None and options.watch is None:
            raise InputError(_why_empty(result))
        stages.show("drawing", 0, 1)
        _write(options, result)
    if options.json != "-":
        from dynamics.report.terminal import show

        with reader_may_leave():
            show(result)
    return result.incomplete


def _why_empty(result: Report) -> str:
    """Say why there is nothing to write a page about: what could not be read, or else what the first sections need."""
    from dynamics.report.assembly import NO_SECTION

    reasons = [line for line in result.incomplete if line != NO_SECTION] or [section.missing for section in result.sections[:1]]
    where = ", ".join(printable(run.path, 200) for run in result.runs[:4])
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{where}: {NO_SECTION}, and no page was written: {printable(reasons[0], 1500)}{more}; --json FILE writes what the files do say"


def _options(options: argparse.Namespace, progress: Callable[[str, int, int], None]) -> Options:
    from dynamics.report.section import Options

    beside = Path(options.html).absolute().parent / CACHE
    cache = beside if options.cache is None else None if options.cache == "none" else Path(options.cache)
    return Options(options.base, options.evals, options.texts, options.model_passes, cache, options.seed, progress)


def _write(options: argparse.Namespace, result: Report) -> None:
    from dynamics.cli.outputs import write, wrote
    from dynamics.io.json import to_json
    from dynamics.report.files import write_files
    from dynamics.report.markdown import markdown
    from dynamics.report.page import draw, folder_from, page

    figures = draw(result)
    folder = Path(options.out) if options.out is not None else None
    if folder is not None:
        write_files(result, figures, folder)
        wrote(folder)
    write(options.html, page(result, figures, folder_from(Path(options.html), folder) if folder is not None else None))
    if options.json:
        write(options.json, to_json(result.to_dict()))
    if options.markdown:
        write(options.markdown, markdown(result))


class _Stages:
    """A progress bar for each stage of the work."""

    def __init__(self) -> None:
        self._name = ""
        self._bar: Any = None

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None

    def show(self, name: str, done: int, total: int) -> None:
        """Show how much of a stage is done; another name begins another stage."""
        from dynamics.cli.progress import ProgressBar

        if name != self._name or self._bar is None:
            self.__exit__()
            self._name, self._bar = name, ProgressBar(printable(name, 100), compiles=True).__enter__()
        self._bar(done, total)


def _state(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Describe the files of the runs by path, size and time, to see that they change; the report's own files are left out."""
    outputs = (options.html, options.json, options.markdown, options.out, options.cache, Path(options.html).parent / CACHE)
    own = {os.path.abspath(path) for path in outputs if path is not None}
    state = []
    for path in options.runs:
        for folder, folders, names in os.walk(os.path.abspath(path)):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in own]
            for file in (os.path.join(folder, name) for name in names):
                with contextlib.suppress(OSError):  # it vanished meanwhile
                    status = os.stat(file)
                    if file not in own:
                        state.append((file, status.st_size, status.st_mtime_ns))
    return sorted(state)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    from dynamics.cli.command import Parser

    parser = Parser(
        prog="python -m dynamics.report",
        description="What did this run do to the model? Reads the output directory of a training run, of this project or of another "
        "trainer, and writes one page: which weights moved, in which directions, how training went, what the model can solve, "
        "and what cannot be concluded.",
        epilog="example: python -m dynamics.report runs/grpo --base Qwen/Qwen3-4B --html grpo.html",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="output directory of a training run; several are shown side by side")
    parser.add_argument("--base", metavar="MODEL", help="model that training started from, a path or a Hub id (default: what the run says)")
    parser.add_argument(
        "--evals", metavar="NAME=FILE", action="append", default=[], help="graded samples for pass@k; may be given several times"
    )
    parser.add_argument(
        "--texts", metavar="FILE", action="append", default=[], help="texts on which base and last checkpoint are compared; may be repeated"
    )
    parser.add_argument(
        "--model-passes",
        action="store_true",
        default=None,
        help="run the models, for entropy and divergence on texts and rollouts (default: if the estimate is under a minute)",
    )
    parser.add_argument("--no-model-passes", action="store_false", dest="model_passes", help="do not run the models")
    parser.add_argument("--html", metavar="FILE", default=PAGE, help="write the page to FILE (default %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write every number on the page, unrounded, to FILE; - writes it to standard output")
    parser.add_argument("--out", metavar="DIR", help="write all tables as CSV and all figures as SVG into DIR; the page links to them")
    parser.add_argument("--markdown", metavar="FILE", help="write a summary to FILE, for a model card or a pull request")
    parser.add_argument(
        "--watch", metavar="SECONDS", type=float, help="look every SECONDS whether the runs went on, and make the page again"
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help=f"folder that keeps what was measured, so that a second report measures only what is new; none keeps nothing (default {CACHE} "
        "beside the page)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of intervals and random projections (default %(default)s)")
    parser.add_argument(
        "--allow-partial", action="store_true", help="exit with status 0, not 3, when something could not be read or compared"
    )
    return parser


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    from dynamics.cli.command import run

    return run("dynamics.report", main, argv)


if __name__ == "__main__":
    sys.exit(cli())
