"""The section on entropy: when models are run, and what is said of a trace."""

from __future__ import annotations

import importlib.util
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import doubt_texts

from dynamics.entropy.traces import Trace
from dynamics.presentation import style
from dynamics.report.kept_passes import Passes, entry, plain, restored
from dynamics.report.passes import SLOWER, START, estimate
from dynamics.report.plot_uncertainty import WIDTH, layout, shown_token
from dynamics.report.run_texts import Chosen, choose
from dynamics.report.section import Options, Section
from dynamics.report.sections import uncertainty
from dynamics.rollouts.texts import Document
from dynamics.runs.view import RolloutFile, Run, SavedCheckpoint

RUN = Path(__file__).parents[2] / "data" / "runs" / "rlvr-0"


def a_run(**changes: object) -> Run:
    """A run with the models and the completions of a real one."""
    files = [RolloutFile(int(path.stem.partition("_")[2]), path) for path in sorted((RUN / "rollouts").glob("*.jsonl"))]
    checkpoint = SavedCheckpoint(4, RUN / "checkpoints" / "step_000004")
    parts = {"base": str(RUN / "checkpoints" / "step_000000"), "checkpoints": [checkpoint], "rollouts": files, **changes}
    return Run(RUN, "dynamics", **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "options", "reason"),
    [
        ({}, Options(model_passes=False), "--model-passes runs them"),
        ({"base": None}, Options(), "--base names it"),
        ({"checkpoints": []}, Options(), "there is no checkpoint"),
        ({"rollouts": []}, Options(), "--texts names files"),
        ({"base": "some-lab/model-that-is-not-here"}, Options(), "--model-passes downloads it"),
        ({"base": "/nothing/here"}, Options(), "nothing/here"),
        ({}, Options(texts=["/nothing.txt"]), "no such"),
    ],
)
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="without transformers there is another reason")
def test_why_no_model_was_run_is_one_line(changes: dict[str, object], options: Options, reason: str) -> None:
    section = uncertainty.make([a_run(**changes)], options)
    assert reason in section.missing
    assert "\n" not in section.missing
    assert section.findings == []
    assert section.incomplete == ([section.missing] if options.texts else []), "what was asked for is incomplete"


def test_the_estimate_counts_the_start_once() -> None:
    one = estimate([(1_000, 10)], 1e3)
    two = estimate([(1_000, 10), (2_000, 10)], 1e3)
    assert one.seconds == pytest.approx(START + SLOWER * 20 + 4e3 / 200e6)
    assert two.seconds == pytest.approx(START + SLOWER * 60 + 12e3 / 200e6)


def a_trace(rng: np.random.Generator, texts: int = 20) -> Trace:
    """A trace in which the second model is surer of connectives."""
    words = [" so", " 1", "+", "x</td>", "\n"]
    frames = []
    for text in range(texts):
        entropy = np.concatenate([[math.nan], rng.exponential(1.0, 39)])
        change = np.where(np.arange(40) % 5 == 0, -0.9, 0.0)
        frame = {"text": f"t{text}", "position": np.arange(40), "token_id": 0, "token": words * 8, "offset": 0, "end": 0}
        frame |= {"prompt": np.arange(40) < 10, "entropy": entropy + 1, "varentropy": entropy, "surprisal": entropy}
        frames.append(pd.DataFrame(frame | {"entropy_b": entropy + 1 + change, "surprisal_b": entropy + 0.2, "kl_ab": 0.1, "kl_ba": 0.2}))
    about = {f"t{text}": {"part": "step 1" if text < texts // 2 else "step 9", "role": "solver"} for text in range(texts)}
    return Trace(pd.concat(frames, ignore_index=True), {f"t{text}": "hello" for text in range(texts)}, "float32", [], 1.0, about)


def a_pair() -> uncertainty.Pair:
    documents = [Document("a", about={"part": "step 1"})]
    return uncertainty.Pair("run", "base 'x", "last", 9, Chosen(documents, [Path("a b.jsonl")], 10, 1), 1_000)


def test_what_is_said_of_a_trace(rng: np.random.Generator) -> None:
    section = Section("uncertainty", "")
    uncertainty.describe(a_pair(), a_trace(rng), [], 0, True, section)
    by_key = {finding.key: finding for finding in section.findings}
    main = by_key["entropy_change"]
    assert main.weight == 10.0
    assert main.value == pytest.approx(-0.9 / 5)  # completions only: tokens 10 to 39, six of which are connectives
    assert (main.low, main.high) == (pytest.approx(main.value), pytest.approx(main.value))
    assert by_key["kl_last_base"].value == pytest.approx(0.2)
    assert by_key["surprisal_change"].value == pytest.approx(0.2)
    assert "changed most on connective" in by_key["kind_change"].text
    parts = section.tables[0].frame
    assert parts["part"].tolist() == ["completions", "completions, step 1", "completions, step 9", "prompts"]
    assert parts["tokens"].tolist() == [600, 300, 300, 180]
    with style.use_style():
        for picture in section.pictures:
            assert picture.draw().axes


def test_two_runs_have_tables_of_their_own(rng: np.random.Generator) -> None:
    section = Section("uncertainty", "")
    for _ in range(2):
        uncertainty.describe(a_pair(), a_trace(rng, 4), ["a note"], 0, False, section)
    together = uncertainty._side_by_side(section.changes)
    assert [finding.weight for finding in together] == [9.0]
    assert "the runs cannot be compared" in together[0].text
    assert together[0].text.count(" nats (") == 2
    assert not uncertainty._side_by_side(section.changes[:1])
    names = [table.name for table in section.tables]
    assert len(set(names)) == len(names) == 8
    assert {picture.table for picture in section.pictures} <= set(names)
    assert any("4 texts only" in doubt for doubt in doubt_texts(section.doubts))
    assert any(doubt.endswith("a note.") for doubt in doubt_texts(section.doubts))


def test_without_divergence_the_section_is_incomplete(rng: np.random.Generator) -> None:
    section = Section("uncertainty", "")
    traced = a_trace(rng)
    traced = replace(traced, tokens=traced.tokens.drop(columns=["kl_ab", "kl_ba"]))
    uncertainty.describe(a_pair(), traced, [], 0, True, section)
    assert section.findings == []
    assert len(section.incomplete) == 1


def test_the_command_is_quoted() -> None:
    words = shlex.split(uncertainty.command(a_pair()))
    assert words == [*["python", "-m", "dynamics.entropy", "base 'x", "a b.jsonl", "--against", "last", "--dtype", "float32"]]


def test_layout_of_coloured_text() -> None:
    assert layout(["ab", "c\n", "d"], width=10, lines=5) == [(0, 0, "ab"), (0, 2, "c⏎"), (1, 0, "d")]
    assert layout(["abc", "def", "ghi"], width=6, lines=1) == [(0, 0, "abc"), (0, 3, "def")]
    assert layout(["x" * 500], width=6, lines=3) == [(0, 0, "xxxxxx")]
    assert shown_token("\x1b\U0001f600\u202e$") == "\\x1b□\\x202e$"
    assert len(shown_token("y" * 1000)) <= WIDTH


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="without transformers the section is left out")
def test_what_an_earlier_report_kept_is_shown_without_running_models(tmp_path: Path, rng: np.random.Generator) -> None:
    run, options = a_run(), Options(cache=tmp_path)
    documents = choose(run, seed=0).documents
    trace = a_trace(rng, 2)
    kept = plain(trace, ["a note"], ["a text was left out"])
    entry(options, str(run.base), str(run.checkpoints[-1].path), documents, "float32").write(kept)
    pd.testing.assert_frame_equal(restored(kept).tokens, trace.tokens)

    seen: list[str] = []
    section = uncertainty.make([run], Options(cache=tmp_path, progress=lambda what, *_: seen.append(what)))
    assert seen == []
    assert section.incomplete == ["a text was left out"]
    assert section.findings[-1].text == "The forward passes took 1 s; in an earlier report, which kept what they gave."
    expected = Section("uncertainty", "")
    uncertainty.describe(a_pair(), trace, ["a note"], 0, True, expected)
    for one, other in zip(section.tables, expected.tables, strict=True):
        pd.testing.assert_frame_equal(one.frame, other.frame)
    others = [
        entry(options, str(run.base), str(run.checkpoints[-1].path), *more) for more in ((documents[1:], "float32"), (documents, None))
    ]
    assert [other.read() for other in others] == [None, None]


@pytest.mark.parametrize("change", [{"entropy": ("float64", ["x"])}, {"entropy": ("no dtype", [1.0])}, {"text": ("int64", [])}, None])
def test_kept_passes_that_are_no_trace_are_refused(change: dict[str, tuple[str, list[object]]] | None, rng: np.random.Generator) -> None:
    columns = plain(a_trace(rng, 1), [], []).columns
    changed = columns | change if change is not None else {"entropy": columns["entropy"]}
    with pytest.raises((ValueError, TypeError)):
        restored(Passes(changed, {}, "float32", 1.0, {}, [], []))


@pytest.mark.slow
def test_models_of_a_real_run_are_run_unasked_and_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    seen: list[tuple[str, int, int]] = []
    section = uncertainty.make([a_run()], Options(cache=tmp_path, progress=lambda what, done, total: seen.append((what, done, total))))
    again = uncertainty.make([a_run()], Options(cache=tmp_path, progress=lambda *_: seen.clear()))
    assert seen  # nothing was run again
    assert again.findings[:-1] == section.findings[:-1]
    assert [table.frame.to_csv() for table in again.tables] == [table.frame.to_csv() for table in section.tables]
    assert section.missing == ""
    assert section.incomplete == []
    assert section.document["estimate"]["seconds"] < 60
    assert seen[-1][1] == seen[-1][2] == section.document["rlvr-0"]["tokens"] + section.document["rlvr-0"]["texts"]
    assert section.findings[0].weight == 10.0
    assert "python -m dynamics.entropy" in section.commands[0]


def test_a_relative_base_is_found_near_the_run_as_in_the_other_sections() -> None:
    pairs, reasons = uncertainty._pairs([a_run(base="rlvr-0/checkpoints/step_000000")], Options())
    assert not reasons
    assert [pair.base for pair in pairs] == [str(RUN / "checkpoints" / "step_000000")]
