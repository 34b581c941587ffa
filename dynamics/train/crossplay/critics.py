"""Cross-play of SPC: the critic of each round on the wrong steps of the generator of each round, from the verdicts that the run recorded.

Nothing is asked again: ``critic_verdicts.jsonl`` has the greedy verdicts of all critics on the same steps.
"""

from __future__ import annotations

import msgspec
import numpy as np

from dynamics.errors import InputError, printable
from dynamics.games.crossplay import CrossPlay, cross_play
from dynamics.io.json_lines import read_json_lines
from dynamics.io.validation import converted, within_bounds
from dynamics.train.finished import FinishedRun

FILE, MANNER = "critic_verdicts.jsonl", "greedy"
#: verdicts that are read
MOST = 1_000_000


class _Verdict(msgspec.Struct):
    critic: int
    manner: str
    source: int | str
    right: bool
    said: bool | None
    problem: str
    step: str


def of_run(run: FinishedRun, player: str = "") -> CrossPlay:
    """Build the matrix of a run of SPC.

    Parameters
    ----------
    run : a finished run.
    player : as given on the command line; only critics judge.

    Returns
    -------
    A row for the generator of each round, whose own critic is that of the round, then wrong steps by rule and right steps, whose own critic
    is the base; a column for the critic of each round. A cell is the share of right verdicts.

    Raises
    ------
    InputError : the run has no verdicts, those of one critic only, or critics that did not judge the same steps.

    Notes
    -----
    A critic that calls every step wrong is right on all rows but the last: read that row too. Generators write valid wrong steps at other
    places, and of other number, so compare along rows, never along columns.
    """
    path = run.path / FILE
    if player not in ("", "critic"):
        raise InputError(f"--player {printable(player, 40)}: only critics judge; leave it out")
    if not path.is_file():
        raise InputError(f"{printable(path)}: is not there; a run of spc writes it at its end, with --critic-problems above 0")
    said: dict[int, dict[tuple[str, str, str], float]] = {}
    with within_bounds(path):
        for number, line in read_json_lines(path):
            where = f"{printable(path)}, line {number}"
            if number > MOST:
                raise InputError(f"{printable(path)}: has over {MOST:,} rows, more than are read")
            row = converted(line, _Verdict, where)
            if row.manner == MANNER:
                said.setdefault(row.critic, {})[str(row.source), row.problem, row.step] = float(row.said is row.right)
    rounds = sorted(said)
    if len(rounds) < 2:
        raise InputError(f"{printable(path)}: has {len(rounds)} critic; a matrix needs two at least (--frozen critic trains none)")
    steps = list(said[rounds[0]])
    if any(said[number].keys() != said[rounds[0]].keys() for number in rounds):
        raise InputError(f"{printable(path)}: its critics judged different steps; restore the file from a copy")
    sources = sorted({source for source, _, _ in steps}, key=lambda source: (not source.isdecimal(), source != "rule", source.zfill(9)))
    names = {"rule": "wrong by rule", "right": "right steps"}
    own = [rounds.index(int(source)) if source.isdecimal() and int(source) in rounds else 0 for source in sources]
    rates = np.array([[said[number][step] for number in rounds] for step in steps])
    phases = [names.get(source, f"generator {printable(source, 20)}") for source in sources]
    return cross_play(rates, [sources.index(step[0]) for step in steps], own, phases, [f"critic {number}" for number in rounds])
