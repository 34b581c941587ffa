"""Tables of every command at 40 to 200 columns: no line is too long, and no number is missing or truncated."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.text import Text

from dynamics import overlap, passk, sparsity, spectra
from dynamics.entropy import terminal as entropy_terminal
from dynamics.entropy.traces import Trace
from dynamics.overlap import terminal as overlap_terminal
from dynamics.passk import terminal as passk_terminal
from dynamics.presentation import tables
from dynamics.samples import File
from dynamics.sparsity import terminal as sparsity_terminal
from dynamics.spectra import terminal as spectra_terminal
from dynamics.train import terminal as train_terminal

Show = Callable[[Console], None]
WIDE = 2000


def state(update: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng, noise = np.random.default_rng(0), np.random.default_rng(seed)
    shapes = {f"model.language_model.layers.{layer}.{name}.weight": (12, 9) for layer in range(12) for name in ("q_proj", "up_proj")}
    shapes |= {"model.embed_tokens.weight": (97, 9), "model.norm.weight": (9,), "another.tower.stack.layers.3.k_proj.weight": (9, 9)}
    return {
        name: (rng.normal(0, 0.02, shape) + np.where(noise.random(shape) < 0.1, update, 0) * noise.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def of_sparsity() -> Show:
    steps = sparsity.series([state(0.0), state(1e-4, 1), state(1e-2, 2)], like="mukherjee")
    return lambda console: sparsity_terminal.show(sparsity.comparison.last_against_first(steps), steps, console)


def of_overlap() -> Show:
    base = state(0.0) | {"gone.weight": np.ones(2, np.float32)}
    comparison = overlap.compare(base, [state(1e-2, seed) for seed in range(1, 5)], threads=1)
    return lambda console: overlap_terminal.show(comparison, True, console)


def of_spectra() -> Show:
    measured, skipped = spectra.compare(state(0.0), state(1e-2, 1), k=9)
    return lambda console: spectra_terminal.show("/data/checkpoint-500", "/data/checkpoint-10000", measured, skipped, console=console)


def of_entropy() -> Show:
    rng = np.random.default_rng(0)
    columns = {name: rng.random(400) for name in ("entropy", "varentropy", "surprisal", "entropy_b", "kl_ab", "kl_ba")}
    tokens = pd.DataFrame(
        {
            "text": np.arange(400) // 100,
            "position": np.arange(400) % 100,
            "token_id": [1, 2, 3, 4] * 100,
            "token": ["a", "7", "the", "12"] * 100,
            **columns,
        }
    )
    tokens = tokens.assign(prompt=np.arange(400) % 100 < 5)
    trace = Trace(tokens, {str(text): "" for text in range(4)}, "float32", ["a note of 1,234 tokens"], 1.0)
    series = pd.DataFrame(
        {"model": ["step_100", "step_2000"], **dict.fromkeys(("entropy", "low", "high", "certain", "p80", "surprisal"), 0.1234567)}
    )
    return lambda console: entropy_terminal.show(trace, "model-7B", "other-13B", series, console)


@cache
def report() -> passk.Report:
    rng = np.random.default_rng(0)
    names = ("base, temperature 0.6", "a trained model of 1234567890 weights", "rl-7B")
    rows = [
        {"model": name, "problem": f"p{problem}", "correct": bool(rng.random() < 0.1 * problem)}
        for name in names
        for problem in range(8)
        for _ in range(16)
    ]
    return passk.report(pd.DataFrame(rows), against=names[0], replicates=100, extrapolate=64)


def of_passk() -> Show:
    files = [File("runs/2026-11-26/results.jsonl", "evalplus", {"correct": "passed", "problem": "task_id"}, 12345, ["a note"])]
    return lambda console: passk_terminal.show(passk.Report(**vars(report()) | {"files": files}), console)


def of_train() -> Show:
    return lambda console: train_terminal.show([("all", report()), ("unseen", report())], console)


@cache
def shown(make: Callable[[], Show]) -> Show:
    return make()


def printed(show: Show, width: int) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width))
    return stream.getvalue()


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d(?:[\d.,]*\d)?(?:e[+-]?\d+)?", text))


@pytest.mark.parametrize("make", [of_sparsity, of_overlap, of_spectra, of_entropy, of_passk, of_train])
@pytest.mark.parametrize("width", [*range(40, 80, 3), *range(80, 201, 20)])
def test_every_number_is_whole_at_every_width(make: Callable[[], Show], width: int) -> None:
    text = printed(shown(make), width)
    assert max(map(len, text.splitlines())) <= width
    wide = printed(shown(make), WIDE)
    drawn = {"0", "11", "1", "3"}  # next to the sparkline, which is left out if it does not fit
    assert numbers(text) - drawn == numbers(wide) - drawn


@pytest.mark.parametrize("width", [1, 3, 7, 20, 40])
def test_wrapped_text_is_the_text(width: int) -> None:
    text = "a/long/path-1000/to_some.thing 12,345.678 weights (90.08 %), 1e-05; 漢字漢字 " + "x" * 30
    lines = tables.wrap(Text(text), width)
    assert all(line.cell_len <= max(2, width) for line in lines)
    assert "".join("".join(line.plain for line in lines).split()) == "".join(text.split())


@pytest.mark.parametrize("number", ["12,345.678", "1000", "1e-05", "90.08"])
@pytest.mark.parametrize("width", [10, 12, 15])
def test_numbers_are_not_cut_between_lines(number: str, width: int) -> None:
    lines = tables.wrap(Text(f"xyz {number} weights /path/to{number} and {number}"), width)
    assert sum(line.plain.count(number) for line in lines) == 3


def test_a_drawing_gives_way_and_columns_go_below() -> None:
    table = tables.table("|name", *(f">{letter}" for letter in "abcdef"), "~drawing")
    tables.add(table, "row", *["123.456"] * 6, "#" * 20)
    assert len(list(table.lines(100))) == 2
    lines = [line.plain for line in table.lines(30) if line.plain]
    assert not any("#" in line for line in lines)
    assert [line.split() for line in lines] == [
        ["name", "a", "b"], ["row", "123.456", "123.456"], ["name", "c", "d"], ["row", "123.456", "123.456"],
        ["name", "e", "f"], ["row", "123.456", "123.456"],
    ]  # fmt: skip
