"""The README and the manual are correct: commands, Python code, outputs, tables of options, links."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import competence_table
import numpy as np
import option_tables
import pytest
from helpers import write_safetensors

import dynamics
from dynamics.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: of pages: language of a fenced block, and its text
BLOCKS = [(page, *block) for page in PAGES for block in re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)]
PYTHON = [(page, text) for page, language, text in BLOCKS if language == "python"]
COMMAND = re.compile(r"(?:\$ )?((?:python -m )?(?:dynamics|analyses)[ .].*?)(?:\s\s+#.*)?$")


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """List each command as written, with the lines of output below it."""
    for _, language, text in BLOCKS:
        lines = text.splitlines() if not language else []
        for number, line in enumerate(lines):
            if match := COMMAND.fullmatch(line):
                yield line, match[1], lines[number + 1 :] if line.startswith("$ ") else []


#: commands as the user types them, and what should follow; the same command may stand on several pages
TYPED = {command: output for _, command, output in sorted(commands(), key=lambda found: bool(found[2]))}
#: of these, those that need nothing but what is in this repository
RUNNABLE = {command: output for command, output in TYPED.items() if "tests/data" in command}


def split(command: str) -> tuple[str, list[str]]:
    """``dynamics.sparsity`` or ``analyses`` with the words after it."""
    program, *words = shlex.split(command.removeprefix("python -m "))
    return (f"{program}.{words[0]}", words[1:]) if program == "dynamics" else (program, words)


def without_speed(line: str) -> str:
    return re.sub(r"[\d,]+ tokens/s", "N tokens/s", line.rstrip())


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 10
    assert len(TYPED) >= 30
    assert len(RUNNABLE) >= 6
    assert {split(command)[0] for command in TYPED} >= {f"dynamics.{name}" for name in COMMANDS}


@pytest.mark.parametrize("command", TYPED)
def test_a_command_is_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, words = split(command)
    if module == "dynamics.train":
        from dynamics.train import command_line

        command_line.parse(words)
    elif module == "analyses":
        assert importlib.import_module("analyses.__main__").main([*words, "--dry-run"]) == 0
    elif module.startswith("analyses."):
        from analyses import analysis

        monkeypatch.chdir(tmp_path)  # a folder without these runs
        script = importlib.import_module(module)
        if hasattr(script, "build_parser"):
            script.build_parser().parse_args(words)
        else:
            assert analysis.main(script, words) == 2
    else:
        main = f"{module}.__main__" if hasattr(importlib.import_module(module), "__path__") else module
        importlib.import_module(main).build_parser().parse_args(words)


@pytest.mark.parametrize(
    "command",  # a page of entropy takes many seconds: torch, and a figure
    [pytest.param(command, marks=[pytest.mark.slow] if "--html entropy" in command else []) for command in RUNNABLE],
)
def test_a_command_runs_and_prints_what_the_page_shows(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "entropy" in command or "spectra" in command:
        pytest.importorskip("transformers")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    module, words = split(command)
    assert main([module.removeprefix("dynamics."), *words]) == 0
    printed = [without_speed(line) for line in capsys.readouterr().out.splitlines()]
    shown = [without_speed(line) for line in RUNNABLE[command]]
    end = shown.index("...") if "..." in shown else len(shown)
    assert printed[:end] == shown[:end]
    for option in ("--html", "--json", "--figure"):
        assert option not in words or Path(words[words.index(option) + 1]).stat().st_size > 0


@pytest.mark.slow
def test_the_tutorial_runs(embedded_model: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    lines = [match[1] for line in tutorial.splitlines() if (match := COMMAND.fullmatch(line))]
    assert len(lines) >= 7
    for line in lines:
        module, words = split(line)
        assert main([module.removeprefix("dynamics."), *words]) == 0


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Provide the names and the files in the working directory that the code of the pages assumes."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from dynamics.train import tiny

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = np.arange(1, 9, dtype=np.float32)
    changed = weights * np.array([1.1, 1.1, *[1 + 1e-6] * 6], np.float32)  # all as stored, two in bfloat16
    for name, values in {"base": weights, "tuned": changed}.items():
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", {"model.norm.weight": values})
        rows = [{"problem": f"p{p}", "sample": s, "correct": bool(rng.random() < 0.5)} for p in range(6) for s in range(4)]
        (tmp_path / f"{name}_results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 64}
    model, other = (transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval() for _ in range(2))
    entropies = np.linspace(0.2, 1.0, 12)
    rows = [
        {"model": name, "problem": f"p{p}", "sample": n, "correct": bool(rng.random() < 0.5), "split": "unseen", "task": "deduction"}
        for name in ("base, T=1", "sft, 3 steps, T=1")
        for p in range(6)
        for n in range(4)
    ]
    (tmp_path / "runs" / "sft-0" / "evals").mkdir(parents=True)
    (tmp_path / "runs" / "sft-0" / "run.json").write_text(json.dumps({"schema": "dynamics.run/2", "method": "sft", "seed": 0}))
    (tmp_path / "runs" / "sft-0" / "evals" / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "runs" / "sft-0" / "metrics.jsonl").write_text(json.dumps({"step": 0, "validation/pass@1/T=1": 0.5}) + "\n")
    return {
        "dynamics": dynamics,
        "logits": torch.randn(5, 64),
        "ids": torch.arange(5),
        "hidden": torch.randn(5, 16),
        "lm_head": model.lm_head,
        "model": model,
        "other": other,
        "tokenizer": tiny.build_tokenizer(),
        "texts": ["abc", "[1,2]"],
        "entropies": entropies,
        "rewards": 0.9 - 0.2 * np.exp(entropies) + 0.01 * rng.normal(size=12),
        "GRPOTrainer": lambda *rest, callbacks: SimpleNamespace(callbacks=callbacks, train=lambda: None),
        "reward": lambda **_: [0.0],
        "folder": tmp_path / "runs",
    }


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[f"{relative(page)}-{number}" for number, (page, _) in enumerate(PYTHON)])
def test_python_prints_what_its_comments_say(page: Path, text: str, names: dict[str, Any]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, relative(page), "exec"), names)
    assert printed.getvalue().splitlines() == re.findall(r"# -> (.*)$", text, re.MULTILINE)


def options_of(name: str) -> set[str]:
    """The options of a command, without --help and without those that --help does not show."""
    if name == "train":
        from dynamics.train import command_line
        from dynamics.train.config import option_of
        from dynamics.train.settings import METHODS

        classes = [*METHODS.values(), command_line.Command]
        return {option_of(field.name) for kind in classes for field in dataclasses.fields(kind)} - {"--config"}
    actions = importlib.import_module(option_tables.PARSERS[name]).build_parser()._actions
    shown = [action for action in actions if action.dest != "help" and action.help != argparse.SUPPRESS]
    return {option for action in shown for option in action.option_strings if option.startswith("--")}


@pytest.mark.parametrize("name", [*COMMANDS, "analyses"])
def test_a_page_lists_the_options_of_its_command(name: str) -> None:
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE)
    presets = ["--preset"] if name in ("train", "analyses") else []  # also the head of a table of what they are
    assert set(listed) == options_of(name)
    assert len(listed) - len(set(listed)) <= len(presets)


@pytest.mark.parametrize("name", option_tables.PARSERS)
def test_the_table_of_options_is_that_of_the_help(name: str) -> None:
    text = (ROOT / "docs" / "commands" / f"{name}.md").read_text(encoding="utf-8")
    assert option_tables.with_options(name, text) == text, "run python docs/option_tables.py"


def test_the_table_of_settings_is_that_of_the_classes() -> None:
    text = (ROOT / "docs" / "commands" / "train.md").read_text(encoding="utf-8")
    assert option_tables.with_settings(text) == text, "run python docs/option_tables.py"


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_navigation_has_every_page() -> None:
    listed = re.findall(r"[ :](\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted([*(page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]), "changelog.md"])


def test_the_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 200


def test_the_page_of_the_laboratory_has_the_tables_of_the_bases_that_ship() -> None:
    text = competence_table.PAGE.read_text(encoding="utf-8")
    assert competence_table.table() in text
    assert competence_table.with_table(text) == text, "run python docs/competence_table.py"
