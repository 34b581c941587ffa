"""The fixed texts on which the distance from the base is measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses import forgetting
from dynamics.presentation import style
from dynamics.rollouts.texts import Document
from dynamics.train.lab import shipped
from dynamics.train.lab.programs import read_program, split_of
from dynamics.train.lab.tokenizer import build_tokenizer


def parts(document: Document) -> tuple[str, str]:
    tokenizer, ids = build_tokenizer(), document.ids or ()
    return tokenizer.decode(ids[: document.prompt_tokens]), tokenizer.decode(ids[document.prompt_tokens :])


def test_a_base_of_the_laboratory_reads_new_examples_of_its_own_pretraining() -> None:
    texts = forgetting.fixed_texts(build_tokenizer())
    assert {kind: len(own) for kind, own in texts.items()} == {"solving": forgetting.EXAMPLES, "proposing": forgetting.EXAMPLES}
    assert texts == forgetting.fixed_texts(build_tokenizer())  # the same for every run
    for kind, own in texts.items():
        for document in own:
            prompt, completion = parts(document)
            assert completion.endswith("<eos>")
            assert prompt.startswith("<P") == (kind == "proposing")
            assert ("<ans>" in completion) == (kind == "solving")
    proposals = [parts(document) for document in texts["proposing"]]
    written = [completion.partition("<in>") for prompt, completion in proposals if not prompt.startswith("<PI>")]
    programs = [read_program(program, {"[": "list", "'": "str"}.get(value[0], "int")) for program, _, value in written]
    assert len(programs) > forgetting.EXAMPLES / 2
    assert {split_of(program) for program in programs if program is not None} == {"pretraining"}
    assert None not in programs


@pytest.mark.slow
def test_only_what_the_base_learnt_to_write_is_measured() -> None:
    base = shipped.find()
    still = forgetting.distances(base, base)
    for kind, texts in forgetting.fixed_texts(build_tokenizer()).items():
        assert still[kind] == {"kl": 0, "loss": 0, "tokens": sum(len(text.ids or ()) - text.prompt_tokens for text in texts)}


def drawn(texts: list[str]) -> Figure:
    rows = [
        {
            "label": label,
            "seed": seed,
            "text": text,
            "quantity": quantity,
            "value": value * (1 + number),
            "low": 0.0,
            "high": 1.0,
            "tokens": 9,
        }
        for number, text in enumerate(texts)
        for label, value in (("sft", 0.1), ("rlvr", 0.3))
        for quantity in forgetting.PANELS
        for seed in range(2)
    ]
    with style.use_style():
        return forgetting.figure(pd.DataFrame(rows))


def test_a_quantity_has_one_scale_on_all_texts() -> None:
    axes = drawn(["solving", "proposing"]).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["KL, solving", "KL, proposing", "loss, solving", "loss, proposing"]
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert axes[2].get_xlim() == axes[3].get_xlim()
    assert len(drawn(["prose"]).axes) == 2


def test_other_models_read_prose_from_its_first_token() -> None:
    class Letters:
        """A tokenizer of letters."""

        eos_token_id = 0

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            assert not add_special_tokens
            return {"input_ids": [ord(letter) for letter in text]}

    texts = forgetting.fixed_texts(Letters())
    prose = Path(forgetting.PROSE).read_text(encoding="utf-8").split("\n\n")
    assert list(texts) == ["prose"]
    assert ["".join(map(chr, document.ids or ())) for document in texts["prose"]] == [part for part in prose if part.strip()]
    assert all(document.prompt_tokens == 0 for document in texts["prose"])
