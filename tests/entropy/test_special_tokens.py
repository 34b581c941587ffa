"""Special tokens at the ends of texts: those that a text has already are not added again, whoever wrote them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dynamics.entropy.__main__ import cli
from dynamics.entropy.traces import tokenise, trace
from dynamics.models import Notes
from dynamics.rollouts.texts import Document

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
ASKED = ({"role": "user", "content": "two plus two"},)
TOLD = (*ASKED, {"role": "assistant", "content": "it is four"})


def tokenizer_that_adds(single, template=None, pad="<pad>"):
    """Make a tokenizer of bytes that adds special tokens, as Llama's adds <s>."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<gmask>": 3}
    vocabulary |= {character: index + 4 for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = [(name, vocabulary[name]) for name in ("<s>", "</s>", "<gmask>")]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token=pad)
    made.add_special_tokens({"additional_special_tokens": ["<gmask>"]})
    made.chat_template = template
    return made


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3
    )
    return LlamaForCausalLM(config).eval()


def entropies(model, ids):
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)[:-1].numpy()


def test_prompts_that_trainers_log_with_bos(model, tmp_path, capsys, monkeypatch):
    """The text of a formatted prompt begins with <s>, and the tokenizer adds one; a chat of the same words gives the same numbers."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tokenizer_that_adds("<s> $A", TEMPLATE)
    model.save_pretrained("m")
    tokenizer.save_pretrained("m")
    prompt = tokenizer.apply_chat_template(list(ASKED), tokenize=False, add_generation_prompt=True)
    (tmp_path / "text.jsonl").write_text(json.dumps({"prompt": prompt, "completion": "it is four</s>"}))
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": ASKED, "completion": TOLD[1:]}))
    ids = tokenizer(prompt + "it is four</s>", add_special_tokens=False)["input_ids"]
    assert ids[0] == 1
    assert ids.count(1) == 1
    expected = entropies(model, ids)
    before = len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) - 1
    for name in ("text", "chat"):
        capsys.readouterr()
        assert cli(["m", f"{name}.jsonl", "--json", "o.json"]) == 0
        parts = {part["part"]: part for part in json.loads((tmp_path / "o.json").read_text())["summary"]}
        assert parts["all"]["tokens"] == len(ids) - 1
        assert parts["all"]["entropy"] == pytest.approx(expected.mean(), rel=1e-5)
        assert parts["response"]["entropy"] == pytest.approx(expected[before:].mean(), rel=1e-5)
        assert ("texts begin with '<s>' already" in capsys.readouterr().out) == (name == "text")


@pytest.mark.parametrize(
    ("single", "text", "ids", "note"),
    [
        ("<s> $A", "ab", [1, "a", "b"], ""),
        ("<s> $A", "<s>ab", [1, "a", "b"], "texts begin with '<s>' already"),
        ("<s> $A", "<s><s>ab", [1, 1, "a", "b"], "texts begin with '<s>' already"),
        ("<s> $A", "a<s>b", [1, "a", 1, "b"], ""),
        ("<s> $A", "<s>", [1], "texts begin with '<s>' already"),
        ("$A", "<s>ab", [1, "a", "b"], ""),
        ("$A", "ab", ["a", "b"], ""),
        ("$A </s>", "ab", ["a", "b", 2], "the tokenizer ends texts with '</s>', which counts"),
        ("$A </s>", "ab</s>", ["a", "b", 2], "texts end with '</s>' already"),
        ("<s> $A </s>", "<s>ab</s>", [1, "a", "b", 2], "texts end with '</s>' already"),
        ("<s> $A </s>", "<s>ab", [1, "a", "b", 2], "texts begin with '<s>' already"),
        ("<gmask> <s> $A", "<gmask><s>ab", [3, 1, "a", "b"], "texts begin with '<gmask><s>' already"),
        ("<gmask> <s> $A", "ab", [3, 1, "a", "b"], ""),
    ],
)
def test_special_tokens_are_not_added_twice(single, text, ids, note):
    tokenizer = tokenizer_that_adds(single)
    expected = [tokenizer.convert_tokens_to_ids(one) if isinstance(one, str) else one for one in ids]
    for document in (Document("x", response=text), Document("x", prompt=text[:1], response=text[1:])):
        if document.prompt == "<":
            continue
        notes = Notes()
        found = tokenise(document, tokenizer, notes)
        assert found.ids == expected
        assert found.text == text
        assert note in " ".join(notes.lines)
        assert bool(note) == bool(notes.lines)
        assert found.ends == sorted(found.ends)
        assert not found.prompt[-1] or not document.response


def test_a_tokenizer_in_python_has_the_same_offsets():
    """It gives no offsets; the end of text that it adds belongs to the response."""
    tokenizer = ByT5Tokenizer()
    notes = Notes()
    found = tokenise(Document("x", prompt="é?", response="ab"), tokenizer, notes)
    assert found.ids == [*tokenizer("é?ab", add_special_tokens=False)["input_ids"], 1]
    assert found.prompt == [True, True, True, False, False, False]
    assert found.ends[2:] == [2, 3, 4, 4]
    given = tokenise(Document("x", prompt="é?", response="ab</s>"), tokenizer, notes)
    assert given.ids == found.ids


def test_chats_whose_first_message_begins_with_bos():
    notes = Notes()
    bare = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    said = ({"role": "user", "content": "<s>ab"}, {"role": "assistant", "content": "cd"})
    found = tokenise(Document("x", messages=said), tokenizer_that_adds("<s> $A", bare), notes)
    assert found.text == "<s>abcd"
    assert found.ids.count(1) == 1
    assert found.prompt == [True] * 3 + [False] * 2
    assert "texts begin with '<s>' already" in notes.lines[0]
    notes = Notes()
    tokenise(Document("x", messages=said), tokenizer_that_adds("<s> $A", TEMPLATE), notes)
    assert "is it a prompt that has been formatted?" in notes.lines[0]
    notes = Notes()
    found = tokenise(Document("x", messages=said), tokenizer_that_adds("<s> $A"), notes)
    assert found.text == "<s>ab\ncd"
    assert found.ids.count(1) == 1


def test_messages_of_parts_and_without_content():
    said = (
        {"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "cd"},
    )
    assert tokenise(Document("x", messages=said), tokenizer_that_adds("$A"), Notes()).text == "ab\n\ncd"


@pytest.mark.parametrize(
    ("pad", "prompt", "response", "kept"),
    [
        ("<pad>", [0, 0, 1, 9, 8], [7, 6, 2, 0, 0], [1, 9, 8, 7, 6, 2]),
        ("<pad>", [1, 9, 8, 0, 0], [7, 6], [1, 9, 8, 7, 6]),
        ("</s>", [2, 2, 1, 9, 8], [7, 6, 2, 2, 2], [1, 9, 8, 7, 6, 2]),
        ("</s>", [2, 9, 8, 2], [7, 6, 2], [2, 9, 8, 2, 7, 6, 2]),
        ("<s>", [1, 1, 1, 9, 8], [7, 6], [1, 9, 8, 7, 6]),
        ("<pad>", [], [0, 7, 6, 0], [7, 6]),
        (None, [0, 0, 9], [7, 0], [0, 0, 9, 7, 0]),
    ],
)
def test_padding_of_recorded_ids_is_left_out(model, pad, prompt, response, kept):
    tokenizer = tokenizer_that_adds("<s> $A", pad=pad)
    found = trace(model, tokenizer, [Document("x", ids=(*prompt, *response), prompt_tokens=len(prompt))])
    assert list(found.tokens["token_id"]) == kept
    assert np.allclose(found.tokens["entropy"][1:], entropies(model, kept), atol=1e-5)
    assert any("padding is left out" in note for note in found.notes) == (len(kept) < len(prompt) + len(response))
    assert list(found.tokens["prompt"]).count(False) == len([token for token in response if token in kept and token != 2]) + (2 in response)
