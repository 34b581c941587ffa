"""What a section of a report is made of. Sections compute tables and sentences; the page, the terminal and the files show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: names of changes that several sections speak of
TRAINING_REWARD, TRAINING_LOSS, PASS_AT_1 = "mean training reward", "training loss", "pass@1"
#: problems below which pass@k is no headline, and says little against another measure
FEW_PROBLEMS = 10


@dataclass(frozen=True)
class Finding:
    """A sentence with the number that it is about.

    Attributes
    ----------
    text : one or two plain sentences, with the number, its interval or why it has none, and its caveat.
    key : name of the number in the JSON document.
    value, low, high : the number, unrounded, and its interval; None where there is none.
    weight : how much it matters for the headline; the largest come first, 0 never stands there.
    run : label of the run that it is about, if it is about one of several: the page folds it.
    short : the number with its interval, and its caveat in a few words, for the headline; ``text`` if empty.
    """

    text: str
    key: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    weight: float = 0.0
    run: str = ""
    short: str = ""

    @property
    def brief(self) -> str:
        """The finding as the headline says it."""
        return self.short or self.text


@dataclass(frozen=True)
class Doubt:
    """Why numbers could mislead.

    Attributes
    ----------
    text : one or two plain sentences: what is in doubt, why, and what would settle it.
    weight : how much it takes from what the page says: 10 if numbers are of something else than they seem, such as those of a run without a
        base, 3 for what holds of every single run, 1 for how a number was estimated. The page begins with the largest.
    about : name of the change of behaviour that it concerns, see ``Change.what``; if that is the largest of the page, the doubt gains.
    """

    text: str
    weight: float = 1.0
    about: str = ""


@dataclass(frozen=True)
class Change:
    """How a number of the model's behaviour changed by training, with an interval.

    Attributes
    ----------
    run : label of the run.
    what : name of the number, within a sentence, such as ``entropy of the next token``.
    start, end : before and after.
    low, high : 95 % interval of ``end - start``.
    how : what was compared, and what the interval covers.
    replaces : name of a change of the same run that this one estimates better: that one is not told beside it.
    units : number of problems, of a change of pass@k.
    """

    run: str
    what: str
    start: float
    end: float
    low: float
    high: float
    how: str
    replaces: str = ""
    units: int = 0

    @property
    def value(self) -> float:
        """The change."""
        return self.end - self.start

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0

    @property
    def relative(self) -> float:
        """The size of the change relative to the larger of start and end: 1 from or to 0, 2 from x to -x."""
        return abs(self.value) / (max(abs(self.start), abs(self.end)) or 1.0)

    @property
    def sure(self) -> float:
        """As ``relative``, of the end of the interval that is nearer to 0; 0 if it contains 0. What changes are ranked by."""
        nearer = min(abs(self.low), abs(self.high)) if self.is_clear else 0.0
        return nearer / (max(abs(self.start), abs(self.end)) or 1.0)


@dataclass(frozen=True)
class Table:
    """A table, unrounded; the page shows it rounded, and the file of the same name holds all of it.

    Attributes
    ----------
    name : file name without suffix, such as ``weights_by_module``.
    title : above the table.
    frame : the rows.
    show : columns that the page shows -> their headings; empty if it shows none, as for a table that belongs to a figure. A heading that
        ends with ``, %`` shows a fraction as a percentage.
    most : number of rows that the page shows.
    note : below the table.
    """

    name: str
    title: str
    frame: pd.DataFrame
    show: Mapping[str, str] = field(default_factory=dict)
    most: int = 40
    note: str = ""


@runtime_checkable
class Draw(Protocol):
    """Draws a figure."""

    def __call__(self, *, width: float = ...) -> Figure:
        """Draw it for a space of ``width`` inches: ``style.TWO_COLUMN`` if nothing is said, ``style.PHONE`` for a telephone."""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes
    ----------
    name : file name without suffix.
    title : what it shows.
    draw : makes the figure for a width; called inside ``presentation.style.use_style``.
    table : name of the table that it draws.
    alternative : the figure in words, for those who do not see it.
    """

    name: str
    title: str
    draw: Draw
    table: str
    alternative: str


@dataclass(frozen=True)
class Sample:
    """Completions of one prompt, to be read beside each other.

    Attributes
    ----------
    title : why it is shown.
    prompt : text.
    completions : heading, such as ``step 10, reward 0``, and text of each.
    """

    title: str
    prompt: str
    completions: Sequence[tuple[str, str]]


@dataclass
class Section:
    """A section of a report.

    Attributes
    ----------
    key : name of the section in the JSON document and in links.
    title : heading, a question.
    findings : what was found, in the order of the page.
    doubts : why the numbers could mislead: for the section on what cannot be concluded.
    tables, pictures, samples : what the page shows below.
    missing : if the section cannot be made: one line that says which file or option would make it.
    lacks : what is missing, in a few words, for the contents.
    incomplete : what could not be read or compared, a line each; makes the exit status 3.
    commands : the commands that make its numbers alone.
    document : further numbers for the JSON document.
    changes : of the model's behaviour, with intervals: the headline names the largest.
    """

    key: str
    title: str
    findings: list[Finding] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    missing: str = ""
    lacks: str = "no data"
    incomplete: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


@dataclass
class Store:
    """What one report measured, or read from the cache: see ``dynamics.report.cache``.

    Attributes
    ----------
    results : by the key of the entry.
    used : the files of the entries.
    """

    results: dict[str, Any] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)


@dataclass(frozen=True)
class Options:
    """What a report is asked for.

    Attributes
    ----------
    base : path or Hub id of the base; None for what each run says.
    evals : files of graded samples, ``NAME=FILE`` or ``FILE``.
    texts : files of texts for measurements with the models.
    model_passes : whether to run the models: True, False, or None to do so if the estimate is below a minute.
    cache : folder of what earlier reports measured; None for none.
    seed : random seed of intervals and random projections.
    progress : called with what is done, how much of it, and of how much.
    store : what the sections of this report share.
    """

    base: str | None = None
    evals: Sequence[str] = ()
    texts: Sequence[str] = ()
    model_passes: bool | None = None
    cache: Path | None = None
    seed: int = 0
    progress: Callable[[str, int, int], None] | None = None
    store: Store = field(default_factory=Store, repr=False, compare=False)
