"""Write the pages of ``docs/findings`` and the results in the README, whose numbers all come from the tables in ``figures/``.

A page is a template in ``templates/findings``: Markdown with expressions such as ``{{ claim("self-play beats its base") | effect }}``. Its
prose says what the tables showed when it was written; where a sentence rests on a verdict or on the sign of a number, the template says so
with ``assume``, and the page is not written if that is no longer so. ``tests/test_findings.py`` checks that the committed pages are what
the committed tables give.

    python -m analyses.findings        # a second
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analyses.claims import NOT_MEASURED, needs
from analyses.confound import spreads
from analyses.verdicts import OPEN, over_seeds
from dynamics import InputError
from dynamics.cli import command, outputs
from dynamics.cli.outputs import wrote
from dynamics.io.csv import restored
from dynamics.presentation import style

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).parent / "templates" / "findings"
#: the pages of the manual
PAGES = ("index", "accuracy", "sparsity", "entropy", "games")
#: document -> its parts that are written here, between ``<!--NAME-->`` and ``<!--END-->``
PARTS = {"README.md": ("precision", "findings")}
END = "<!--END-->"
Row = Mapping[str, Any]


class Tables:
    """The tables of a folder of figures, for templates.

    Parameters
    ----------
    folder : with ``laboratory.csv`` and the tables of the figures.
    """

    #: methods that templates call
    FUNCTIONS = ("rows", "row", "claim", "verdicts", "gain_of", "greedy", "mean_of", "bf16", "spread", "explained")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = cache(lambda name: restored(pd.read_csv(folder / f"{name}.csv")))

    def rows(self, table: str, **wanted: object) -> list[dict[str, Any]]:
        """List the rows of a table whose columns have the values wanted; None stands for an empty cell."""
        found = self._read(table)
        for column, value in wanted.items():
            found = found[found[column].isna() if value is None else found[column] == value]
        return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]

    def row(self, table: str, **wanted: object) -> dict[str, Any]:
        """Return the only row of a table whose columns have the values wanted.

        Raises
        ------
        InputError : there is none, or several.
        """
        found = self.rows(table, **wanted)
        if len(found) != 1:
            raise InputError(f"{self._folder / table}.csv: {len(found)} rows have {wanted}; a page of findings needs one")
        return found[0]

    def claim(self, name: str, row: int = 0, study: str = "laboratory") -> dict[str, Any]:
        """Return a row of a claim, counted from 0."""
        found = self.rows(study, claim=name)
        if row >= len(found):
            raise InputError(f"{self._folder / study}.csv: has no row {row} of the claim {name!r}")
        return found[row]

    def gain_of(self, name: str, k: int, split: str = "test") -> dict[str, Any]:
        """Return the difference of a model's pass@k from the base that was asked in the same manner, over all seeds."""
        return self.row("pass_at_k", split=split, name=name, kind="difference", k=k, seed=None)

    def greedy(self, name: str, split: str = "test") -> dict[str, Any]:
        """Return the difference of a model's pass@1 at temperature 1 from greedy decoding of the base, over all seeds."""
        return self.row("pass_at_k", split=split, name=name, kind="against", k=1, seed=None, against="base, greedy")

    def mean_of(self, table: str, column: str = "value", **wanted: object) -> dict[str, Any]:
        """Average a column over the seeds, of which the rows wanted have one each; return value, low and high (Student's t)."""
        found = self.rows(table, **wanted)
        value, low, high = over_seeds([row[column] for row in found])
        if len({row["seed"] for row in found}) != len(found):
            raise InputError(f"{self._folder / table}.csv: several rows of a seed have {wanted}; a page of findings needs one")
        return {"value": value, "low": low, "high": high, "seeds": len(found)}

    def bf16(self, label: str) -> dict[str, Any]:
        """Return the mean share of unchanged weights of a label by the rule ``bf16``, with Student's interval over seeds."""
        return self.mean_of("update_sparsity", part="total", label=label, rule="bf16")

    def explained(self, outcome: str, factor: str) -> float:
        """Return the share of the variance of an outcome that a factor explains."""
        return float(self.row("variance", part="factor", outcome=outcome, factor=factor)["share"])

    def spread(self, rule: str) -> dict[str, Any]:
        """Return how far methods at one setting, and settings of one method, differ in sparsity by a rule."""
        (found,) = [row for row in spreads(self._read("confound")) if row["rule"] == rule]
        return found

    def verdicts(self, study: str = "laboratory") -> dict[str, str]:
        """Return the verdict of each claim of a study."""
        return {row["claim"]: row["claim_verdict"] for row in self.rows(study)}


def write(figures: Path, root: Path = ROOT) -> list[Path]:
    """Write the pages and the parts of documents; return their paths.

    Parameters
    ----------
    figures : folder of the tables.
    root : of the repository, whose documents are written.

    Raises
    ------
    InputError : a table lacks what a page says, or shows other than the page says.
    """
    written = pages(figures) | {name: filled(root / name, figures, PARTS[name]) for name in PARTS}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        outputs.write(str(root / name), text)
    return [root / name for name in written]


def pages(figures: Path) -> dict[str, str]:
    """Render the pages of the manual; return the text of each by its path in the repository."""
    return {f"docs/findings/{name}.md": _rendered(f"{name}.md", figures) for name in PAGES}


def filled(document: Path, figures: Path, parts: Sequence[str]) -> str:
    """Return the text of a document with some parts rendered anew."""
    text = document.read_text(encoding="utf-8")
    for part in parts:
        before, mark, rest = text.partition(f"<!--{part}-->")
        _, end, after = rest.partition(END)
        if not mark or not end:
            raise InputError(f"{document}: has no <!--{part}--> ... {END}, between which the results stand")
        text = f"{before}{mark}\n{_rendered(f'{document.stem.lower()}-{part}.md', figures)}{end}{after}"
    return text


def _rendered(template: str, figures: Path) -> str:
    tables = Tables(figures)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= FILTERS
    about: dict[str, Callable[..., Any]] = {name: getattr(tables, name) for name in Tables.FUNCTIONS}
    return environment.get_template(template).render(about | {"assume": assume, "power": power})


def assume(so: object, what: str) -> str:
    """Check what the prose of a page rests on; return nothing to print.

    Raises
    ------
    InputError : it is not so.
    """
    if not so:
        raise InputError(f"a page of findings says that {what}, and the tables do not; write the page anew (analyses/templates/findings)")
    return ""


def effect(row: Row, digits: int = 3) -> str:
    """Format an effect with its interval: ``+0.071 [+0.002, +0.139]``."""
    value = row["effect"] if "effect" in row else row["value"]
    interval = "" if math.isnan(row["low"]) else f" [{signed(row['low'], digits)}, {signed(row['high'], digits)}]"
    return f"{signed(value, digits)}{interval}"


def level(row: Row, digits: int = 2) -> str:
    """Format a level with its interval, without a sign: ``0.38 [0.34, 0.42]``."""
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
    return f"{row['value']:.{digits}f}{interval}"


def signed(value: float, digits: int = 3) -> str:
    """Format a number with its sign."""
    return f"{value:+.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """Format a share as a percentage."""
    return f"{100 * value:.{digits}f} %"


def percents(row: Row, digits: int = 1) -> str:
    """Format a share with its interval as percentages: ``8.3 % [8.1, 8.5]``."""
    return f"{100 * row['value']:.{digits}f} % [{100 * row['low']:.{digits}f}, {100 * row['high']:.{digits}f}]"


def plain(value: float, digits: int = 2) -> str:
    """Format a number without a sign."""
    return f"{value:.{digits}f}"


def sure(row: Row) -> str:
    """Say how sure the verdict of a row is: seeds, p by Holm, and what a decision would take where there is none."""
    if row["verdict"] == NOT_MEASURED:
        return f"not measured: {row['reason']}"
    words = f"{row['verdict']}, p = {row['p_holm']:.2g} by Holm with {row['seeds']:.0f} seeds"
    return f"{words}; {power(row)}" if row["verdict"] == OPEN else words


def power(row: Row) -> str:
    """Say how many seeds would decide an undecided row, and which effect these seeds would find."""
    needed, known = needs(row), not math.isnan(row["detectable"])
    detectable = f"these find {row['detectable']:.2g} or more" if known else ""
    seeds = f"{needed} seeds would decide it" if needed.isdigit() else f"{needed} would be needed" if needed else ""
    return "; ".join(part for part in (seeds, detectable, str(row["reason"] or "")) if part and part != "nan")


FILTERS: dict[str, Callable[..., str]] = {
    "effect": effect,
    "level": level,
    "signed": signed,
    "percent": percent,
    "percents": percents,
    "plain": plain,
    "exponent": style.exponent,
    "sure": sure,
}


def build_parser() -> command.Parser:
    """Build the parser of the command line."""
    parser = command.Parser(prog="python -m analyses.findings", description=str(__doc__).splitlines()[0])
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", help="folder of the tables (default: figures/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""

    def run(arguments: Sequence[str] | None) -> None:
        for path in write(build_parser().parse_args(arguments).figures):
            wrote(path)

    return command.run("analyses.findings", run, argv)


if __name__ == "__main__":
    sys.exit(main())
