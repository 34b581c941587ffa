"""Behaviour that all commands share."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import signal
import stat
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import write_safetensors

from analyses.__main__ import main as analyses
from analyses.analysis import main as run_analysis
from dynamics.__main__ import COMMANDS
from dynamics.__main__ import main as dispatch
from dynamics.cli.command import TRACEBACK, IncompleteError, Parser, Terminated, reader_may_leave, run
from dynamics.cli.outputs import check_output
from dynamics.cli.progress import ProgressBar
from dynamics.cli.series import sort_series
from dynamics.errors import InputError
from dynamics.extras import PACKAGES, optional_import
from dynamics.io.paths import repeated
from dynamics.overlap.__main__ import cli as overlap_cli
from dynamics.sparsity.__main__ import cli as sparsity_cli
from dynamics.spectra.__main__ import cli as spectra_cli
from dynamics.train.__main__ import cli as train_cli
from dynamics.train.progress import TrainingProgress
from dynamics.train.settings import METHODS


@pytest.mark.parametrize(
    ("target", "text"),
    [("nowhere/out.json", "does not exist"), (".", "is a folder"), ("out.txt", "expected .png, .svg")],
)
def test_outputs_that_cannot_be_written_are_refused_first(tmp_path, monkeypatch, target, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=text):
        check_output(target, (".png", ".svg") if target.endswith("txt") else ())


@pytest.fixture
def progress(monkeypatch):
    """Enable the progress display, which other tests disable."""
    monkeypatch.delenv("DYNAMICS_PROGRESS")


@pytest.mark.usefixtures("progress")
@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_the_bar_shows_on_a_terminal_and_only_for_long_work(monkeypatch, seconds):
    leader, follower = pty.openpty()
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.2)
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with ProgressBar("comparing") as bar:
            time.sleep(seconds)
            bar(1, 2)
            time.sleep(seconds)
        terminal.write("end")
        terminal.flush()
        shown = os.read(leader, 100_000).decode()
    os.close(leader)
    assert ("comparing" in shown) == (seconds > 0)


@pytest.mark.usefixtures("progress")
def test_lines_now_and_then_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.1)
    with ProgressBar("comparing") as bar:
        bar(0, 4)
        time.sleep(0.15)
        bar(1, 4, "lm_head")
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "comparing: 0 s"
    assert lines[1].startswith("comparing: 25 %, lm_head, 0 s, about ")
    assert 2 <= len(lines) <= 4  # at increasing intervals


@pytest.mark.usefixtures("progress")
def test_short_work_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(ProgressBar, "PATIENCE", 5.0)
    with ProgressBar("comparing") as bar:
        bar(1, 2)
    assert capsys.readouterr().err == ""


def test_progress_can_be_switched_off(capsys, monkeypatch):
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.05)
    monkeypatch.setenv("DYNAMICS_PROGRESS", "0")
    with ProgressBar("comparing", compiles=True) as bar:
        time.sleep(0.2)
        bar(1, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("progress")
def test_the_first_compilation_is_announced_once(capsys):
    import numba

    with ProgressBar("comparing", compiles=True):
        for number in (1, 1.0):
            numba.njit(lambda x: x)(number)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("comparing:")]  # lines of a slow machine
    assert lines == ["compiling kernels, once; later runs use them as they are"]
    with ProgressBar("comparing", compiles=True):
        pass
    numba.njit(lambda x: x)(1)
    assert capsys.readouterr().err == ""


def test_training_shows_its_metrics(capsys, monkeypatch):
    monkeypatch.delenv("DYNAMICS_PROGRESS")
    monkeypatch.setattr(ProgressBar, "PATIENCE", 0.1)
    with TrainingProgress("rlvr", 10) as progress:
        progress(1, {"reward": 0.25, "entropy": 0.5, "time/tokens_per_second": 1200.0})
        time.sleep(0.2)
    assert capsys.readouterr().err.splitlines()[0].startswith("rlvr: 1/10, reward 0.250  entropy 0.500  1,200 tokens/s, 0 s")


def read_all(terminal):
    """Read the output to a terminal until its other end is closed."""
    while True:
        try:
            yield os.read(terminal, 100_000).decode(errors="replace")
        except OSError:
            return


@pytest.mark.usefixtures("progress")
def test_text_is_shown_behind_the_bar(monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        pieces: list[str] = []
        reader = threading.Thread(target=lambda: pieces.extend(read_all(leader)))
        reader.start()
        with ProgressBar("training", patience=0.0, counts=True, keep=True) as bar:
            for step in range(1, 13):
                bar(step, 12, f"reward [{step / 16:.3f}]")
                time.sleep(0.05)
    reader.join()
    os.close(leader)
    shown = "".join(pieces)
    assert "12/12" in shown
    assert "reward [0.750]" in shown


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_resume_refuses_what_is_not_a_file(tmp_path, capsys, kind):
    target = tmp_path / "null"
    if kind == "fifo":
        os.mkfifo(target)
    else:
        try:
            os.mknod(target, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("no right to make devices")
    before = os.lstat(target)
    assert spectra_cli(["base", "tuned", "--resume", str(target)]) == 2
    error = capsys.readouterr().err
    assert "not a regular file" in error
    assert error.count("\n") == 1
    after = os.lstat(target)
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert os.listdir(tmp_path) == ["null"]


# how commands end


def raises(error):
    def main(_argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("a: is empty"), 2, "test: error: a: is empty"),
        (IncompleteError("b is left out"), 3, "test: incomplete: b is left out"),
        (KeyboardInterrupt(), 130, "test: interrupted"),
        (OSError(28, "No space left on device"), 2, "test: error: [Errno 28] No space left on device"),
        (
            ModuleNotFoundError("No module named 'gguf'", name="gguf"),
            2,
            "test: error: this needs gguf: pip install 'training-dynamics[gguf]'",
        ),
        (ValueError("two\nlines"), 1, "test: internal error: ValueError: two; please report it"),
        (MemoryError(), 2, "test: error: memory ran out (MemoryError); end other programs, or use a machine with more"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), 2, "test: error: memory ran out (RuntimeError: CUDA out of memory. Tried); end"),
        (RuntimeError("can't start new thread"), 2, "test: error: memory ran out (RuntimeError: can't start new thread); end other"),
        (Terminated(), 143, "test: terminated\n"),
        (Terminated("step 3 is saved", signal.SIGHUP), 129, "test: terminated: step 3 is saved\n"),
        (KeyboardInterrupt("step 3 is saved"), 130, "test: interrupted: step 3 is saved\n"),
    ],
)
def test_every_end_has_its_status_and_one_line(error, status, text, capsys):
    assert run("test", raises(error), []) == status
    stderr = capsys.readouterr().err
    assert stderr.startswith(text)
    assert stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(capsys):
    assert run("test", raises(BrokenPipeError()), []) == 0
    done = []
    with reader_may_leave():
        raise BrokenPipeError
    done.append("the files are written all the same")
    assert done
    assert capsys.readouterr().err == ""


def test_termination_cleans_up_and_has_its_status(capsys):
    cleaned = []

    def main(_argv):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:  # commands that save on Ctrl-C also save on SIGTERM
            cleaned.append(True)
            raise

    before = signal.getsignal(signal.SIGTERM)
    assert run("test", main, []) == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "test: terminated\n"


def test_a_closed_terminal_ends_a_command_unless_nohup_started_it(capsys):
    def main(_argv):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)

    before = signal.getsignal(signal.SIGHUP)
    assert run("test", main, []) == 129
    assert capsys.readouterr().err == "test: terminated\n"
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("test", main, []) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_traceback_of_an_unexpected_error_can_be_had(monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ZeroDivisionError):
        run("test", raises(ZeroDivisionError()), [])


# what is mistyped


def parser():
    made = Parser(prog="test")
    made.add_argument("names", nargs="+")
    made.add_argument("--json")
    made.add_argument("--method", choices=("full", "approx"))
    return made


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["a", "--jsno", "x"], "did you mean --json?"),
        (["a", "--JSON=x"], "did you mean --json?"),
        (["a", "--method", "aprox"], "did you mean approx?"),
    ],
)
def test_the_nearest_option_or_choice_is_named(words, meant):
    with pytest.raises(InputError) as error:
        parser().parse_args(words)
    assert meant in str(error.value)
    with pytest.raises(InputError, match="unrecognized") as error:
        parser().parse_args(["a", "--zzz"])
    assert "did you mean" not in str(error.value)


def test_the_nearest_command_and_path_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_safetensors(tmp_path / "base.safetensors", {"w": np.ones(4, np.float32)})
    assert dispatch(["sparsty"]) == 2
    assert "did you mean sparsity?" in capsys.readouterr().err
    assert sparsity_cli(["base.safetensors", "bose.safetensors"]) == 2
    assert "bose.safetensors: no such file or folder; did you mean base.safetensors?" in capsys.readouterr().err
    assert sparsity_cli(["base.safetensors", "base.safetensors", "--paper", "mukherje"]) == 2
    assert "did you mean mukherjee?" in capsys.readouterr().err
    assert train_cli(["rlrv", "--out", "x"]) == 2
    assert "did you mean rlvr?" in capsys.readouterr().err
    assert train_cli(["selfplay", "--out", "x", "--preset", "azr-papper"]) == 2
    assert "did you mean azr-paper?" in capsys.readouterr().err


def test_a_trainers_output_directory_lists_its_checkpoints(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_safetensors(tmp_path / "base.safetensors", {"w": np.ones(4, np.float32)})
    for number in (1000, 50, 200):
        (tmp_path / f"run/checkpoint-{number}").mkdir(parents=True)
    (tmp_path / "run/training_args.bin").write_bytes(b"")
    (tmp_path / "ours/checkpoints/step_000010").mkdir(parents=True)
    assert sparsity_cli(["base.safetensors", "run"]) == 2
    assert (
        "run: contains no weights itself, but 3 checkpoints: checkpoint-50, checkpoint-200, checkpoint-1000; "
        "name one, e.g. run/checkpoint-1000\n"
    ) in capsys.readouterr().err
    assert sparsity_cli(["base.safetensors", "ours"]) == 2
    assert "1 checkpoint: checkpoints/step_000010; name one, e.g. ours/checkpoints/step_000010\n" in capsys.readouterr().err
    from dynamics.models import load

    with pytest.raises(InputError, match=r"e\.g\. run/checkpoint-1000"):
        load("run")


# series


@pytest.mark.parametrize("cli", [sparsity_cli, overlap_cli])
def test_a_series_is_in_natural_order(tmp_path, capsys, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for name, value in (("z-1", 0), ("step_9", 1), ("step_10", 2)):
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", {"w": np.full(4, value, np.float32)})
    series = ["--series"] if cli is overlap_cli else []
    assert cli(["z-1", "step_10", "step_9", *series, "--json", "sorted.json"]) == 0
    assert "sorted the series by number: z-1, step_9, step_10\nwrote sorted.json\n" in capsys.readouterr().err
    assert cli(["z-1", "step_9", "step_10", *series, "--json", "given.json"]) == 0
    assert capsys.readouterr().err == "wrote given.json\n"
    assert json.loads((tmp_path / "sorted.json").read_text()) == json.loads((tmp_path / "given.json").read_text())


def test_the_first_of_a_series_is_the_one_of_the_lowest_number(tmp_path, capsys, monkeypatch):
    """As the shell lists them, ``step_10`` would be the base."""
    monkeypatch.chdir(tmp_path)
    for step in (2, 9, 10):
        write_safetensors(tmp_path / f"step_{step}.safetensors", {"w": np.full(4, step, np.float32)})
    assert sparsity_cli(["step_10.safetensors", "step_2.safetensors", "step_9.safetensors", "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert [step["from"] + step["to"] for step in json.loads(printed.out)["series"]][:2] == [
        "step_2.safetensorsstep_9.safetensors",
        "step_2.safetensorsstep_10.safetensors",
    ]
    assert "sorted the series by number: step_2.safetensors, step_9" in printed.err


def test_names_without_a_common_pattern_keep_their_places(capsys):
    assert sort_series("test", ["sft", "rl-2", "base"]) == ["sft", "rl-2", "base"]
    assert capsys.readouterr().err == ""
    assert sort_series("test", ["c-1000/", "c-50", "c-final"]) == ["c-50", "c-1000/", "c-final"]


# without the optional packages


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_one_line_that_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^reading needs [^\n]*: pip install [^\n]*$"), optional_import("reading"):
        importlib.import_module(name)


def test_without_torch(tmp_path, capsys, monkeypatch, pair):
    monkeypatch.chdir(tmp_path)
    for name, state in zip(("base", "tuned"), pair, strict=True):
        write_safetensors(tmp_path / f"{name}.safetensors", state)
    (tmp_path / "t.txt").write_text("text")
    assert train_cli(["sft", "--out", "t.txt"]) == 2  # the parser's library looks for torch in sys.modules when it is first used
    capsys.readouterr()
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    files = ["base.safetensors", "tuned.safetensors"]
    from dynamics.entropy.__main__ import cli as entropy_cli

    for cli, words in ((spectra_cli, files), (entropy_cli, ["base", "t.txt"]), (train_cli, ["sft", "--out", "x"])):
        assert cli(words) == 2
        stderr = capsys.readouterr().err
        assert "needs torch: pip install 'training-dynamics[models]' (in a checkout: pip install -e '.[models]')\n" in stderr
        assert stderr.count("\n") == 1
    for cli, words in ((spectra_cli, ["base.safetensors", "nope"]), (entropy_cli, ["base", "t.text"]), (entropy_cli, ["./nope", "t.txt"]),
                       (entropy_cli, ["base", "--against", "./nope", "t.txt"]), (train_cli, ["sft", "--out", "t.txt"])):  # fmt: skip
        assert cli(words) == 2  # what is wrong with the arguments comes before what is missing
        stderr = capsys.readouterr().err
        assert "needs torch" not in stderr
        assert stderr.count("\n") == 1
    assert sparsity_cli(files) == 0
    assert train_cli(["sft", "--out", "x", "--dry-run"]) == 0
    assert not (tmp_path / "x").exists()


def test_analyses_without_torch(tmp_path, capsys, monkeypatch):
    for name in ("torch", "transformers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    assert analyses(["--figures", str(tmp_path / "figures"), "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.startswith("analyses: error: the analysis comparison needs torch: pip install ")
    assert not list(tmp_path.iterdir())


def test_a_script_of_an_analysis_reports_a_missing_package_in_one_line(tmp_path, capsys):
    def measure(_runs):
        raise ModuleNotFoundError(name="safetensors")

    script = types.SimpleNamespace(__name__="analyses.question", __doc__="Ask.", measure=measure)
    recorded = str(Path(__file__).parent.parent / "data" / "runs")
    assert run_analysis(script, [recorded, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("analyses.question: error: analyses.question needs safetensors: pip install ")
    assert message.count("\n") == 1


def test_a_checkpoint_given_twice_is_noted(tmp_path, capsys, monkeypatch, pair):
    monkeypatch.chdir(tmp_path)
    base, tuned = pair
    for name, state in (("step_0", base), ("step_1", tuned), ("step_2", tuned)):
        write_safetensors(tmp_path / f"{name}.safetensors", state)
    (tmp_path / "copy").symlink_to("step_1.safetensors")
    twice = "the same checkpoint is given 2 times: step_1.safetensors, ./step_1.safetensors"
    given = ["step_0.safetensors", "step_1.safetensors"]
    assert repeated([*given, "copy"]) == ["the same checkpoint is given 2 times: step_1.safetensors, copy"]
    copied = "step_2.safetensors: identical to the checkpoint before it, step_1.safetensors"
    for cli, more, expected in (
        (sparsity_cli, ["./step_1.safetensors", "step_2.safetensors"], [twice, copied]),
        (sparsity_cli, [], []),
        (overlap_cli, ["./step_1.safetensors"], [twice]),
        (overlap_cli, ["step_2.safetensors"], []),
    ):
        assert cli([*given, *more, "--json", "-"]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert [note for note in notes if note in (twice, copied)] == expected
    assert sparsity_cli([given[1], f"./{given[1]}", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"].count(twice) == 1


# help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        dispatch([command, "--help"])
    assert exit_.value.code == 0
    assert f"example: python -m dynamics.{command} " in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS), *(["train", method] for method in METHODS), ["analyses"]])
def test_help_fits_the_terminal(words, capsys, monkeypatch):
    program = analyses if words == ["analyses"] else dispatch
    for width in (40, 50, 60, 80, 120, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        with contextlib.suppress(SystemExit):
            program([*(words if program is dispatch else []), "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 10
        assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_names_its_command_before_or_after(word, capsys):
    with pytest.raises(SystemExit) as exit_:
        dispatch([word, "sparsity"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m dynamics.sparsity")
    assert dispatch([word, "sparsty"]) == 2
    assert capsys.readouterr().err == "dynamics: error: sparsty: no such command; did you mean sparsity?\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["help", "sparsity"], ["passk", "--help"]])
def test_help_for_a_reader_that_has_left_is_no_error(words, capsys, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert dispatch(words) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["sparsity", "overlap", "spectra", "entropy", "passk", "games"])
@pytest.mark.parametrize("width", [45, 50, 60])
def test_a_usage_keeps_options_and_their_values_together(command, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        dispatch([command, "--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert max(map(len, usage)) <= width
    assert [line for line in usage if line.count("[") != line.count("]")] == []
    assert sum(" FILE]" in line for line in usage) >= 2


def test_the_list_of_commands_asks_a_question_each(capsys):
    assert dispatch([]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name:<10} {question}" in listed and question.endswith("?") for name, (question, _) in COMMANDS.items())
