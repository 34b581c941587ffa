"""The command ``dynamics.report``, and the document, page, files and summary that it writes."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import signal
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import browser, dumped
from report_helpers import read, reader, weights, write_checkpoint, write_run  # noqa: F401 - reader is a fixture

from dynamics.report import Change, Finding, Options, Picture, Report, Sample, Section, Table, assembly, report
from dynamics.report.__main__ import cli
from dynamics.report.assembly import changed
from dynamics.report.cells import cell
from dynamics.report.markdown import escape, markdown
from dynamics.report.page import draw, page
from dynamics.report.section import Doubt
from dynamics.report.sections import configuration
from dynamics.runs import Run, Settings

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>{{7*7}}[a](javascript:x)|`b`\x00\x1b[2J\u202e'


class Text(HTMLParser):
    """The text of a page outside its figures, styles and scripts, the names of its elements, and where its links lead."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text, self.elements, self.links, self.cells = "", [], [], []
        self._inside: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, *(name for name, _ in attributes)))
        self._inside.append(tag)
        if tag == "td":
            self.cells.append("")
        if tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script", "title"} & set(self._inside):
            self.text += data
            if "td" in self._inside:
                self.cells[-1] += data


def numbers_in(value: object) -> list[float]:
    """All numbers of a document, also those in its texts."""
    if isinstance(value, dict):
        return [number for entry in [*value, *value.values()] for number in numbers_in(entry)]
    if isinstance(value, list):
        return [number for entry in value for number in numbers_in(entry)]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, str):
        return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?", value)]
    return [float(value)]


@pytest.fixture
def run(tmp_path: Path, reader: None) -> Path:  # noqa: F811
    return write_run(tmp_path / "run")


def test_one_command_writes_the_page_and_what_is_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(run.parent)
    assert cli(["run", "--json", "r.json", "--out", "files", "--markdown", "card.md"]) == 0
    printed = capsys.readouterr()
    assert [line for line in printed.err.splitlines() if line.startswith("wrote")] == [
        "wrote files", "wrote report.html", "wrote r.json", "wrote card.md",
    ]  # fmt: skip
    assert "a trainer by hand (by_hand.json)" in printed.out
    document = json.loads(Path("r.json").read_text())
    assert document["schema"] == "dynamics.report/1"
    assert document["command"] == "python -m dynamics.report run --json r.json --out files --markdown card.md"
    assert [section["key"] for section in document["sections"]] == list(assembly.SECTIONS)
    assert 4 <= len(document["headline"]) <= 6
    assert document["headline"][0]["key"] == "unchanged_bf16"

    # every number that the tables of the page show is in the document
    shown = Text(Path("report.html").read_text())
    known = np.array(numbers_in(document))
    cells = [text for text in shown.cells if re.fullmatch(r"[\d,.e+-]+", text.strip()) and text.strip() != "-"]
    assert len(cells) > 100
    for text in cells:
        value = float(text.replace(",", ""))
        assert min((np.abs(known - value)).min(), (np.abs(100 * known - value)).min()) <= max(
            5e-3 if "." in text else 0, 6e-4 * abs(value)
        ), text
    # and so is every number of a sentence, as the sentence itself
    for entry in document["headline"]:
        assert entry["text"][:60] in shown.text

    # the files, and the links to them
    tables = {table["name"]: table["rows"] for section in document["sections"] for table in section["tables"]}
    assert {path.stem for path in Path("files").glob("*.csv")} == set(tables)
    assert {path.stem for path in Path("files").glob("*.svg")} == {
        figure["name"] for section in document["sections"] for figure in section["figures"]
    }
    linked = {link for link in shown.links if not link.startswith("#")}
    assert linked
    assert all(Path(link).is_file() for link in linked)
    written = pd.read_csv("files/weights_over_checkpoints.csv")
    assert written["step"].tolist() == [10, 20, 30]
    assert written["sparsity_bf16"].tolist() == [row["sparsity_bf16"] for row in tables["weights_over_checkpoints"]]

    card = Path("card.md").read_text()
    assert card.startswith("## What this run did to the model\n")
    assert escape(document["headline"][0]["text"]) in card
    assert "| step | weights | exact, % |" in card


@pytest.mark.usefixtures("reader")
def test_what_cannot_be_read_is_a_line_and_status_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("overlap", "weights", "configuration"))
    monkeypatch.chdir(tmp_path)
    broken = write_run(tmp_path / "a")
    (broken / "checkpoint-20" / "model.safetensors").write_bytes(b"half")
    write_checkpoint(broken / "checkpoint-30", {"other.weight": np.ones((3, 3), np.float32)})
    (tmp_path / "b").mkdir()
    assert cli(["a", "b", "--json", "-", "--cache", "none"]) == 3
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert not (tmp_path / ".dynamics-cache").exists()
    assert [row["step"] for row in document["sections"][1]["tables"][0]["rows"]] == [10]
    assert document["incomplete"][0].startswith("b: is not the output directory of a known trainer")
    assert [line.split(":")[0] for line in document["incomplete"][1:]] == ["a, step 20", "a, step 30"]
    assert printed.err.splitlines()[-1].startswith("dynamics.report: incomplete: b: is not the output directory")
    assert "Left out of this report" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(assembly, "SECTIONS", ("configuration",))
    assert cli(["a", "b", "--json", "-", "--cache", "none", "--allow-partial"]) == 0


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: is not a directory"),
        (["run", "--html", "-"], "--html -: a page is written to a file"),
        (["run", "--html", "page.json"], "--html writes .html"),
        (["run", "--markdown", "page.html"], "unknown kind of output"),
        (["run", "--markdown", "a.md", "--html", "no/report.html"], "the folder no does not exist"),
        (["run", "--out", "base/model.safetensors"], "is a file; --out names a folder"),
        (["run", "--out", "no/files"], "does not exist"),
        (["run", "--watch", "0"], "--watch: must be a number of seconds from 0.1 to 86,400"),
        (["run", "--watch", "1e-300"], "--watch: must be a number of seconds"),
        (["run", "--watch", "nan"], "--watch: must be a number of seconds"),
        (["run", "--watch", "-1"], "--watch: must be a number of seconds"),
        (["run", "--seed", "-1"], "--seed: must be at least 0"),
        (["run", "--evals", ""], "--evals: is empty"),
        (["run", "--texts", "no.jsonl", "--no-model-passes"], "--texts: no.jsonl: no such"),
        (["run", "--texts", "empty.txt", "--no-model-passes"], "--texts: empty.txt: is empty"),
        (["nothing-yet"], "nothing-yet: no section could be made, and no page was written: no weights were compared: nothing-yet: has no"),
        (["run", "--jsno", "x"], "did you mean --json?"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_bad_options_are_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_run(tmp_path / "run")
    write_run(tmp_path / "nothing-yet", steps=())
    (tmp_path / "empty.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert cli(words) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.usefixtures("reader")
def test_a_run_without_any_section_is_a_document_if_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_run(tmp_path / "run", steps=())
    monkeypatch.chdir(tmp_path)
    assert cli(["run", "--json", "r.json"]) == 3
    assert json.loads(Path("r.json").read_text())["incomplete"] == ["no section could be made"]
    assert Path("report.html").is_file()


@pytest.mark.usefixtures("reader")
def test_texts_that_no_model_reads_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("uncertainty",))
    write_run(tmp_path / "run")
    (tmp_path / "texts.txt").write_text("hello\n")
    monkeypatch.chdir(tmp_path)
    assert cli(["run", "--texts", "texts.txt", "--no-model-passes", "--json", "-"]) == 3
    printed = capsys.readouterr()
    assert "dynamics.report: --texts is not used: with --no-model-passes, no model reads them" in printed.err.splitlines()
    assert "so --texts is not used" in json.loads(printed.out)["sections"][0]["missing"]


@pytest.mark.usefixtures("reader")
def test_watching_makes_the_page_again_until_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("configuration",))
    run = write_run(tmp_path / "run", steps=(10,))
    target = run / "report.html"  # its own page in the run's directory is no change of the run

    def go_on() -> None:
        while not target.exists():
            time.sleep(0.01)
        write_checkpoint(run / "checkpoint-20", weights(1, 0.02))
        end = time.monotonic() + 20
        while "2 checkpoints, steps 10, 20" not in target.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        other = threading.Thread(target=go_on)
        other.start()
        assert cli([str(run), "--html", str(target), "--watch", "0.1"]) == 3  # no section could be made
        other.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "2 checkpoints, steps 10, 20" in target.read_text()
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("wrote")]) <= 3


def hostile_report(text: str) -> assembly.Report:
    """A report with ``text`` wherever a stranger's file can place it."""
    table = pd.DataFrame({"name": [text, "b"], "value": [0.5, np.nan], text: [1, 2]})
    section = Section(
        "weights",
        text,
        [Finding(text, text, 1.0, weight=1.0)],
        [Doubt(text)],
        [Table("a_table", text, table, {"name": text, "value": "share, %"}, note=text)],
        samples=[Sample(text, f"{text}\n{text}", [(text, text)])],
        incomplete=[text],
        commands=[text],
        document={text: text},
    )
    fields = {"settings": Settings(master_dtype=text), "remarks": [text], "notes": [text]}
    runs = [Run(Path(parent) / re.sub("[/\0]", "", text), text, text, text, text, text, **fields) for parent in "ab"]
    made = report(runs)
    made.sections, made.headline, made.incomplete, made.command = [section], [("weights", section.findings[0])], [text], text
    return made


def structure(text: str) -> list[tuple[str, ...]]:
    return Text(page(hostile_report(text), {})).elements


def test_hostile_text_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("configuration",))
    shown = page(hostile_report(HOSTILE), {})
    assert structure(HOSTILE) == structure("plain")
    assert "{{49}}" not in shown
    assert "{{7*7}}" in shown
    assert not re.search(r"[^\n\x20-\x7e\u00a0-\u1fff\u2026\u2190-\uffff]", shown)
    assert len(page(hostile_report("x" * 10_000), {})) < 100_000
    card = markdown(hostile_report(HOSTILE))
    assert "\x1b" not in card
    folds = r"</?details>|<summary>(Tables|Each run by itself|The commands that make each number alone)</summary>"
    assert re.findall(r"(?<!\\)</?details>", card) == re.findall(r"</?details>", markdown(hostile_report("plain")))
    card = re.sub(rf"(?m)^({folds})+$", "", card)
    assert not re.search(
        r"(?<!\\)<(?!/?script>alert\(1\)</script>\"><img)", "\n".join(line for line in card.splitlines() if line[:4] != "    ")
    )
    assert not re.search(r"(?<!\\)\]\(", "\n".join(line for line in card.splitlines() if line[:4] != "    "))


def test_a_table_is_embedded_unless_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("configuration",))
    made = hostile_report("=1+1")
    (link,) = [link for link in Text(page(made, {})).links if link.startswith("data:")]
    assert base64.b64decode(link.partition("base64,")[2]).decode() == "name,value,'=1+1\n'=1+1,0.5,1\nb,,2\n"
    large = pd.DataFrame({"name": ["a name of a tensor"] * 100_000})
    made.sections[0].tables[0] = Table("large", "Large", large, {"name": "name"}, 3)
    shown = Text(page(made, {}))
    assert not [link for link in shown.links if link.startswith("data:")]
    assert "99,997 more rows are in the file" in shown.text
    assert "--out DIR" in shown.text


def test_a_section_that_fails_on_its_input_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "SECTIONS", ("weights", "configuration"))
    run = read(write_run(tmp_path / "run"))
    assert run is not None
    made = report([run], Options(base=str(tmp_path / "run" / "by_hand.json")))
    assert "is a JSON file" in made.incomplete[0]
    said = [(fact.text, fact.source) for fact in made.facts[0] if fact.name == "base"]
    assert said == [(str(tmp_path / "run" / "by_hand.json"), f"--base;  says {tmp_path / 'base'}")]
    assert [row["step"] for row in made.to_dict()["sections"][0]["tables"][0]["rows"]] == [20, 30]  # against the first checkpoint


def test_cells() -> None:
    values = [True, np.int64(1234567), 2.0, 1e-9, float("nan"), pd.NA, None, "a\nb", 0.999999]
    assert [cell(value) for value in values] == ["yes", "1,234,567", "2", "1e-09", "-", "-", "-", "a\\x0ab", "1"]
    assert cell(0.999999, "bf16, %") == "99.9999"


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="no browser")
def test_the_page_in_a_browser(tmp_path: Path, reader: None) -> None:  # noqa: F811
    """Figures load, nothing hostile runs, and at no width is the page wider than the window."""
    run = write_run(tmp_path / "run", remarks=[HOSTILE, "x" * 9000], trainer=HOSTILE)
    target = tmp_path / "report.html"
    made = report([read(run)], Options())  # type: ignore[list-item]
    script = (
        "<script>addEventListener('load', () => document.body.append(Object.assign(document.createElement('output'), {textContent: "
        "JSON.stringify({"
        "wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,"
        "images: [...document.images].map(image => image.complete && image.naturalWidth > 0),"
        "hostile: document.querySelectorAll('img[src=x], script:not(:last-of-type)').length,"
        "buttons: document.querySelectorAll('th button').length})})))</script></body>"
    )
    target.write_text(page(made, draw(made)).replace("</body>", script))
    for width in (500, 1280):  # a headless window is at least 500 pixels wide
        (text,) = re.findall(r"<output>(.*?)</output>", dumped(target, tmp_path, f"--window-size={width},900"))
        measured = json.loads(text)
        assert measured["wide"] <= 0, width
        assert len(measured["images"]) == 4
        assert all(measured["images"])
        assert measured["hostile"] <= 1
        assert measured["buttons"] > 10


def a_change(what: str, start: float, end: float, low: float, high: float, run: str = "a", replaces: str = "") -> Change:
    return Change(run, what, start, end, low, high, "first and last 10 of 60 logged steps", replaces)


def a_report(*sections: Section) -> assembly.Report:
    return Report([Run(Path("a"), "t")], ["a"], [[]], [], list(sections))


def test_the_headline_names_the_largest_clear_change_and_which_others_are_clear() -> None:
    small, large = a_change("entropy", 2.0, 1.9, -0.11, -0.09), a_change("reward", 0.2, 0.6, 0.3, 0.5)
    unclear, other = a_change("length", 5.0, 9.0, -1.0, 9.0), a_change("reward", 0.5, 0.5, -0.1, 0.1, "b")
    finding = Finding("x", "unchanged_bf16", 0.75, short="At step 9, 75 % of the weights are unchanged. Both sides are bf16.")
    made = a_report(Section("weights", "w", [finding], changes=[small, unclear, large]))
    assert made.largest_changes == [
        "The reward rose from 0.2 to 0.6: by +0.4, 95 % interval +0.3 to +0.5 (first and last 10 of 60 logged steps). Also clear: entropy "
        "(2 to 1.9). Not clear, as the interval contains 0: length. At step 9, 75 % of the weights are unchanged."
    ]
    assert changed([unclear], "a") == "No measured change of behaviour is clear: the 95 % intervals of these contain 0: length."
    assert changed([], "a") == "No change of behaviour was measured with an interval."
    # of several runs, a line each, also of one without any
    made.runs.append(Run(Path("b"), "t"))
    made.labels.append("b")
    made.sections[0].changes.append(other)
    first, second = made.largest_changes
    assert first.startswith("a: The reward rose from 0.2 to 0.6")
    assert "unchanged" not in first  # the key of the weights names the run, and this one does not
    assert second == "b: No measured change of behaviour is clear: the 95 % intervals of these contain 0: reward."


def test_the_largest_change_is_the_one_that_is_surely_large() -> None:
    barely, surely = a_change("reward", 0.36, 0.47, 0.005, 0.227), a_change("entropy", 0.99, 0.88, -0.131, -0.093)
    assert (barely.relative > surely.relative, barely.sure < surely.sure) == (True, True)
    assert changed([barely, surely], "a").startswith("The entropy fell from 0.99 to 0.88")
    assert a_change("length", 5.0, 9.0, -1.0, 9.0).sure == 0.0


def test_the_better_estimate_of_a_change_is_told_alone() -> None:
    steps = a_change("mean training reward", 0.3, 0.4, -0.2, 0.4)
    prompts = a_change("training reward of the same prompts", 0.33, 0.4, 0.02, 0.11, replaces="mean training reward")
    assert changed([steps, prompts], "a").startswith("The training reward of the same prompts rose from 0.33 to 0.4: by +0.07")
    assert "mean training reward" not in changed([steps, prompts], "a")
    assert "mean training reward" in changed([steps, prompts], "a") + changed([steps], "a")


def test_the_gravest_doubt_comes_first(run: Path) -> None:
    one = read(run)
    assert one is not None
    one.settings = dataclasses.replace(one.settings, learning_rate=1.0)
    assert report([one], Options(model_passes=False)).doubts[0].startswith("What the model learned was not measured")
    one.evals = [run / "graded.jsonl"]
    assert report([one], Options(model_passes=False)).doubts[0].startswith("Cause: this is one run without a control")
    one.base = None
    made = report([one], Options(model_passes=False))
    assert made.doubts[0].startswith("Base: no file says which model training started from")
    assert made.to_dict()["doubts"] == made.doubts
    one.checkpoints = one.checkpoints[:1]
    without = report([one], Options(model_passes=False)).doubts[0]
    assert without.startswith("Base: no file names the model that training started from")
    assert without.endswith("; --base MODEL names it.")


def test_a_doubt_about_the_largest_change_comes_before_its_like() -> None:
    about = [Doubt("of the length", 5.0, "length"), Doubt("of the reward", 5.0, "reward"), Doubt("of all", 6.0)]
    length, reward = a_change("length", 9.0, 5.0, -5.0, -3.0), a_change("reward", 0.5, 0.6, 0.05, 0.15)
    assert a_report(Section("curves", "c", doubts=about, changes=[length, reward])).doubts == ["of the length", "of all", "of the reward"]
    assert a_report(Section("curves", "c", doubts=about, changes=[reward])).doubts == ["of the reward", "of all", "of the length"]
    assert a_report(Section("curves", "c", doubts=about)).doubts[0] == "of all"


def test_a_reward_that_rose_without_more_problems_solved_is_a_doubt() -> None:
    reward = a_change("mean training reward", 0.1, 0.4, 0.2, 0.4)
    for low, high, doubted in ((-0.1, 0.2, True), (0.01, 0.1, False), (-0.2, -0.1, True)):
        made = a_report(Section("curves", "c", changes=[reward, a_change("pass@1", 0.2, 0.2 + (low + high) / 2, low, high)]))
        assert [text.startswith("The mean training reward rose, but pass@1 did not clearly rise: ") for text in made.doubts] == [
            True
        ] * doubted
    for what, value, doubted in (
        ("mean training reward", -0.3, 0),
        ("training loss", -0.3, 1),
        ("training loss", 0.3, 0),
        ("length", 3.0, 0),
    ):
        other = a_change(what, 5.0, 5.0 + value, value - 0.1, value + 0.1)
        solved = a_change("pass@1", 0.2, 0.2, -0.1, 0.1)
        made = a_report(Section("curves", "c", changes=[other, solved]))
        assert len(made.doubts) == doubted, what
    about = Section("rollouts", "r", doubts=[Doubt("prompts differ", 8.0, "mean training reward")])
    for units, first in ((60, "The mean training reward rose, but"), (2, "prompts differ")):  # two problems say little
        measured = Section("passk", "p", changes=[reward, dataclasses.replace(solved, units=units)])
        assert a_report(about, measured).doubts[0].startswith(first)


def test_a_base_in_a_folder_is_named_by_what_it_holds(run: Path, tmp_path: Path) -> None:
    one = read(run)
    assert one is not None
    (fact,) = [fact for fact in report([one], Options(model_passes=False)).facts[0] if fact.name == "base"]
    assert re.fullmatch(r".*base \(model of 232 weights\)", fact.text), fact.text
    write_checkpoint(run / "start", weights(0))
    (run / "start" / "config.json").write_text(json.dumps({"model_type": "llama", "_name_or_path": "org/model-8b"}))
    one.base = str(run / "start")
    (fact,) = [fact for fact in report([one], Options(model_passes=False)).facts[0] if fact.name == "base"]
    assert fact.text == "start (llama model of 232 weights, from org/model-8b)"
    one.base = "org/model-8b"
    (fact,) = [fact for fact in report([one], Options(model_passes=False)).facts[0] if fact.name == "base"]
    assert fact.text == "org/model-8b"


def test_a_fault_in_a_section_or_a_figure_does_not_cost_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> Section:
        raise OverflowError("too large")

    monkeypatch.setattr(assembly, "SECTIONS", ("configuration",))
    monkeypatch.setattr("dynamics.report.sections.configuration.make", fail)
    made = report([Run(tmp_path, "by hand")])
    assert made.sections[0].missing.startswith("internal error (OverflowError: too large)")
    assert "configuration: internal error" in made.incomplete[0]

    def vanish(*_: object) -> Section:
        return Section("configuration", (tmp_path / "gone").read_text())

    monkeypatch.setattr("dynamics.report.sections.configuration.make", vanish)
    gone = report([Run(tmp_path, "by hand")])
    assert gone.sections[0].missing == f"{tmp_path / 'gone'}: No such file or directory"
    assert gone.incomplete[0] == f"configuration: {tmp_path / 'gone'}: No such file or directory"

    made.sections.append(Section("x", "X", pictures=[Picture("broken", "Broken", fail, "", "")]))  # type: ignore[arg-type]
    assert draw(made) == {}
    assert not made.sections[1].pictures
    assert made.incomplete[-1] == "the figure broken cannot be drawn (OverflowError: too large); its table is there"


def test_a_page_has_a_figure_for_a_desktop_and_one_for_a_telephone(run: Path) -> None:
    made = report([read(run)], Options(model_passes=False))  # type: ignore[list-item]
    figures = draw(made)
    assert set(figures) == {picture.name for section in made.sections for picture in section.pictures}
    widths = {name: [float(re.search(rb'width="([\d.]+)pt"', svg)[1]) for svg in drawn] for name, drawn in figures.items()}  # type: ignore[index]
    assert all(wide >= 5 * 72 and narrow <= 3.7 * 72 for wide, narrow in widths.values()), widths
    document = page(made, figures)
    assert document.count('<source media="(max-width: 44rem)"') == len(figures)


def test_the_tables_of_a_section_but_a_short_first_one_are_folded(run: Path) -> None:
    made = report([read(run)], Options(model_passes=False))  # type: ignore[list-item]
    document = page(made, {})
    shown = [table for section in made.sections for table in section.tables if table.show]
    first = [next(table for table in section.tables if table.show) for section in made.sections if any(t.show for t in section.tables)]
    assert document.count("<details class=part>") == len(shown) - sum(len(table.frame) <= 12 for table in first)


def test_the_summary_folds_tables_and_repeats_no_finding_of_the_headline(run: Path) -> None:
    made = report([read(run)], Options(model_passes=False))  # type: ignore[list-item]
    card = markdown(made)
    assert all(card.count(escape(finding.text)) == 1 for _, finding in made.headline)
    assert "| learning rate | 1e-05 |" in card
    before = card.split("<details>")[0]
    assert "**Largest change.**" in before
    assert "**Largest doubt.** Size of the update: its root mean square" in before
    assert "| 10 | 232 |" not in before
    assert re.search(r"\| -?[\d.]+ \|", card)  # the sign of a number is not escaped
    assert "\\-0" not in card
    assert card.count("<details>") == card.count("</details>") > 1


def test_bases_that_the_runs_saved_themselves_are_those_of_the_settings(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name, "t", base=str(tmp_path / name / "step_0"), config={"model": "base"}) for name in ("a", "b")]
    same = configuration.make(runs, Options()).findings[0].text
    assert "are the same in all runs" in same
    runs[1].config["model"] = "other"
    assert "The runs differ in base (base, other)" in configuration.make(runs, Options()).findings[0].text
    runs[1].base = "elsewhere"
    assert "The runs differ in base (base, elsewhere)" in configuration.make(runs, Options()).findings[0].text
