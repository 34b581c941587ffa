"""Traces of texts against the model's own logits, for any batching, padding, windows and tokeniser."""

from __future__ import annotations

import itertools
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from dynamics import entropy
from dynamics.entropy import __main__ as command
from dynamics.entropy.__main__ import cli
from dynamics.entropy.traces import trace, windows
from dynamics.errors import InputError
from dynamics.rollouts import texts
from dynamics.rollouts.texts import Document

CORPUS = ["the quick brown fox jumps over the lazy dog", "naïve café 🎉 déjà vu", "def f(x):\n    return x + 1\n"] * 20
TEXTS = ["the quick brown fox", "naïve 🎉 café", "def f(x):\n    return x + 1\n", "a"]
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def tokenizer():
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def llama(seed=0, vocabulary=300, **settings):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SMALL, initializer_range=0.3, **settings)).eval()


@pytest.fixture(scope="module")
def model():
    return llama()


def own(model, ids):
    """Compute entropy and surprisal of tokens 1.. from the model's own logits and a float64 softmax."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    entropy_ = -(log_p.exp() * log_p).sum(-1)[:-1]
    return entropy_.numpy(), -log_p[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy(), log_p


def test_rows_stand_beside_the_token_they_predicted(model, tokenizer):
    traced = trace(model, tokenizer, TEXTS, top=3, temperature=0.5)
    assert traced.dtype == "float32"
    for name, text in enumerate(TEXTS):
        rows = traced.tokens[traced.tokens["text"] == str(name)]
        ids = tokenizer(text)["input_ids"]
        assert list(rows["token_id"]) == ids
        assert list(rows["position"]) == list(range(len(ids)))
        assert np.isnan(rows["entropy"].iloc[0])
        assert rows["rank"].isna().iloc[0]
        expected, surprisal, log_p = own(model, ids)
        assert np.allclose(rows["entropy"].iloc[1:], expected, atol=1e-5)
        assert np.allclose(rows["surprisal"].iloc[1:], surprisal, atol=1e-5)
        for position in range(1, len(ids)):
            best = log_p[position - 1].topk(3)
            assert rows["top_ids"].iloc[position] == best.indices.tolist()
            assert rows["top_p"].iloc[position] == pytest.approx(best.values.exp().tolist(), abs=1e-5)
            assert rows["rank"].iloc[position] == int((log_p[position - 1] > log_p[position - 1, ids[position]]).sum()) + 1
            sharp = torch.log_softmax(log_p[position - 1] / 0.5, -1)
            assert rows["entropy_at_temperature"].iloc[position] == pytest.approx(float(-(sharp.exp() * sharp).sum()), abs=1e-5)


def test_offsets_lead_back_to_the_text(model, tokenizer):
    traced = trace(model, tokenizer, TEXTS)
    for name, text in enumerate(TEXTS):
        rows = traced.tokens[traced.tokens["text"] == str(name)]
        assert traced.texts[str(name)] == text
        covered = {position for start, end in zip(rows["offset"], rows["end"], strict=True) for position in range(start, end)}
        assert covered == set(range(len(text)))
        assert (np.diff(rows["offset"]) >= 0).all()


def test_batches_and_padding_change_nothing(model, tokenizer):
    alone = pd.concat(
        [trace(model, tokenizer, [Document(f"{i}", response=text)]).tokens for i, text in enumerate(TEXTS)], ignore_index=True
    )
    for size in (1, 12, 4096):
        batched = trace(model, tokenizer, TEXTS, batch_tokens=size).tokens
        assert list(batched["token_id"]) == list(alone["token_id"])
        for column in ("entropy", "varentropy", "surprisal"):
            assert np.allclose(batched[column], alone[column], atol=1e-5, equal_nan=True)
    left = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="</s>", padding_side="left")
    assert np.allclose(trace(model, left, TEXTS).tokens["entropy"], alone["entropy"], atol=1e-5, equal_nan=True)


def test_windows_cover_every_token_once():
    for length in (1, 7, 8, 9, 31, 64):
        jobs = windows([length], 8)
        assert [position for window in jobs for position in range(window.fresh, window.stop)] == list(range(length))
        assert all(window.stop - window.start <= 8 for window in jobs)
        assert all(window.fresh - window.start >= 4 for window in jobs[1:])


def test_long_texts_go_in_windows(model, tokenizer):
    text = " ".join(CORPUS[:12])
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > 64
    traced = trace(model, tokenizer, [text])
    assert list(traced.tokens["token_id"]) == ids
    assert traced.tokens["entropy"].notna().sum() == len(ids) - 1
    assert any("longer than the window of 64" in note for note in traced.notes)
    assert np.allclose(traced.tokens["entropy"].iloc[1:64], own(model, ids[:64])[0], atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        lambda: LlamaForCausalLM(LlamaConfig(vocab_size=300, **SMALL, tie_word_embeddings=True, initializer_range=0.3)),
        lambda: Gemma2ForCausalLM(
            Gemma2Config(vocab_size=300, **SMALL, num_key_value_heads=2, head_dim=16, final_logit_softcapping=3.0, initializer_range=0.3)
        ),
        lambda: CohereForCausalLM(CohereConfig(vocab_size=300, **SMALL, logit_scale=0.25, initializer_range=0.3, pad_token_id=0)),
        lambda: GraniteForCausalLM(GraniteConfig(vocab_size=300, **SMALL, logits_scaling=4.0, initializer_range=0.3)),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3)),
    ],
)
def test_heads_of_other_families(tokenizer, other):
    torch.manual_seed(0)
    made = other().eval()
    traced = trace(made, tokenizer, TEXTS[:1])
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert np.allclose(traced.tokens["entropy"].iloc[1:], own(made, ids)[0], atol=1e-4)
    assert not any("could not be computed" in note for note in traced.notes)


def test_a_head_that_is_not_understood_is_left_to_the_model(tokenizer, monkeypatch):
    made = llama()
    made.register_forward_hook(lambda _, __, out: setattr(out, "logits", out.logits * 2))
    traced = trace(made, tokenizer, TEXTS[:1])
    assert any("could not be computed" in note for note in traced.notes)
    assert np.allclose(traced.tokens["entropy"].iloc[1:], own(made, tokenizer(TEXTS[0])["input_ids"])[0], atol=1e-5)


def test_padded_rows_are_said_and_can_be_left_out(tokenizer):
    made = llama(vocabulary=320)
    traced = trace(made, tokenizer, TEXTS[:1])
    assert any("20 rows of padding" in note for note in traced.notes)
    short = trace(made, tokenizer, TEXTS[:1], vocabulary=300)
    assert short.tokens["entropy"].mean() < traced.tokens["entropy"].mean()
    with torch.no_grad():
        logits = made(torch.tensor([tokenizer(TEXTS[0])["input_ids"]])).logits[0, :-1, :300]
    assert np.allclose(short.tokens["entropy"].iloc[1:], entropy.from_logits(logits).entropy, atol=1e-5)


def test_two_models_over_the_same_tokens(model, tokenizer):
    other = llama(seed=1)
    tokens = trace(model, tokenizer, TEXTS, against=other).tokens
    same = trace(model, tokenizer, TEXTS, against=model).tokens
    assert np.nanmax(same["kl_ab"]) < 1e-20
    assert (same["entropy"].dropna() == same["entropy_b"].dropna()).all()
    ids = tokenizer(TEXTS[0])["input_ids"]
    rows = tokens[tokens["text"] == "0"].iloc[1:]
    a, b = own(model, ids)[2][:-1], own(other, ids)[2][:-1]
    assert np.allclose(rows["kl_ab"], (a.exp() * (a - b)).sum(-1), rtol=1e-4)
    assert np.allclose(rows["kl_ba"], (b.exp() * (b - a)).sum(-1), rtol=1e-4)
    assert np.allclose(rows["entropy_b"], own(other, ids)[0], atol=1e-5)


def test_divergence_of_heads_of_other_sizes(model, tokenizer):
    """It is over the tokens that both have; rows of padding of one have no share in it."""
    other = llama(seed=1, vocabulary=320)
    found = trace(model, tokenizer, TEXTS[:1], against=other)
    ids = tokenizer(TEXTS[0])["input_ids"]
    with torch.no_grad():
        a, b = (torch.log_softmax(one(torch.tensor([ids])).logits[0, :-1, :300].double(), -1) for one in (model, other))
    assert np.allclose(found.tokens["kl_ab"].iloc[1:], (a.exp() * (a - b)).sum(-1), rtol=1e-4)
    assert np.allclose(found.tokens["kl_ba"].iloc[1:], (b.exp() * (b - a)).sum(-1), rtol=1e-4)
    assert any("divergences are over the 300 of both" in note for note in found.notes)


def test_a_second_model_with_another_tokenizer_is_refused(model, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("the fox")
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = core["model"]["vocab"]
    renamed = {"q": "\u4e00", "z": "\u4e01"}

    def with_vocabulary(words):
        changed = core | {"model": core["model"] | {"vocab": words, "merges": []}}
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(changed)), bos_token="<s>", eos_token="</s>")

    turned = {word: (number + 7 - 2) % (len(vocabulary) - 2) + 2 if number > 1 else number for word, number in vocabulary.items()}
    second = {"turned": with_vocabulary(turned), "renamed": with_vocabulary({renamed.get(word, word): n for word, n in vocabulary.items()})}
    monkeypatch.setattr(command, "load", lambda name, *_: (model, second.get(name, tokenizer)))
    assert cli(["m", "t.txt", "--against", "turned"]) == 2
    assert "turned: its tokenizer is another: 298 of 300 token ids stand for other tokens" in capsys.readouterr().err
    assert cli(["m", "t.txt", "--against", "renamed"]) == 0
    assert "2 token ids stand for another token" in capsys.readouterr().out


def test_tokens_of_tools_are_no_response(model, tokenizer):
    ids = tuple(tokenizer("the fox jumps over")["input_ids"])
    generated = (False,) * 4 + (True,) * 2 + (False,) * (len(ids) - 8) + (True,) * 2
    found = trace(model, tokenizer, [Document("x", ids=ids, prompt_tokens=4, generated=generated)])
    assert found.tokens["prompt"].tolist() == [not one for one in generated]


def test_prompt_and_response(model, tokenizer):
    rows = trace(model, tokenizer, [Document("x", "the quick", " brown fox")]).tokens
    ids = tokenizer("the quick brown fox")["input_ids"]
    assert list(rows["token_id"]) == ids
    assert rows["prompt"].tolist() == [end <= 9 for end in rows["end"]]


def test_token_ids_are_used_as_given(model, tokenizer):
    natural = tokenizer("the fox")["input_ids"]
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in ("t", "h", "e")]
    traced = trace(model, tokenizer, [Document("r", ids=tuple(letters + natural), prompt_tokens=3)])
    assert list(traced.tokens["token_id"]) == letters + natural
    assert traced.tokens["prompt"].tolist() == [True] * 3 + [False] * len(natural)
    assert any("differ from the tokenised text" in note for note in traced.notes)
    agreeing = trace(model, tokenizer, [Document("r", ids=tuple(natural))])
    assert not agreeing.notes
    cut = tokenizer("🎉")["input_ids"][:-1]  # bytes of half a character
    assert len(trace(model, tokenizer, [Document("r", ids=tuple(cut))]).tokens) == len(cut)


def test_chat(model, tokenizer):
    chatty = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    chatty.chat_template = (
        "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    messages = ({"role": "user", "content": "the fox"}, {"role": "assistant", "content": "jumps"})
    traced = trace(model, chatty, [Document("c", messages=messages)])
    assert traced.texts["c"] == "<s>user: the fox\nassistant: jumps\n"
    assert list(traced.tokens["token_id"]).count(chatty.bos_token_id) == 1
    response = traced.tokens[~traced.tokens["prompt"]]
    assert "".join(response["token"]).strip() == "jumps"
    plain = trace(model, tokenizer, [Document("c", messages=messages)])
    assert any("no chat template" in note for note in plain.notes)


def fail_in_forward(model, fails, error):
    """Make ``model`` raise ``error`` in its forward pass if ``fails(ids)``."""

    def check(_, __, inputs):
        if fails(inputs["input_ids"]):
            raise error

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    return model


def test_memory_that_runs_out_halves_the_batch(tokenizer):
    short = fail_in_forward(llama(), lambda ids: len(ids) > 1, RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    traced = trace(short, tokenizer, TEXTS)
    assert any("batches were halved" in note for note in traced.notes)
    expected = trace(llama(), tokenizer, TEXTS)
    assert not any("halved" in note for note in expected.notes)
    assert list(traced.tokens["token_id"]) == list(expected.tokens["token_id"])
    assert np.allclose(traced.tokens["entropy"], expected.tokens["entropy"], atol=1e-5, equal_nan=True)
    for error in (RuntimeError("CUDA out of memory"), torch.OutOfMemoryError("x"), MemoryError()):
        none = fail_in_forward(llama(), lambda ids: ids.shape[1] > 20, error)
        with pytest.raises(InputError, match="--window"):
            trace(none, tokenizer, [" ".join(CORPUS[:3])])
    broken = fail_in_forward(llama(), lambda ids: ids.shape[1] > 20, RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        trace(broken, tokenizer, [" ".join(CORPUS[:3])])


def test_refusals(model, tokenizer):
    with pytest.raises(InputError, match="not a causal language model"):
        trace(
            T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)), tokenizer, ["a"]
        )
    with pytest.raises(InputError, match="does not belong to the model"):
        trace(llama(vocabulary=200), tokenizer, ["a"])
    with pytest.raises(InputError, match="no tokenizer"):
        trace(model, None, ["a"])
    with pytest.raises(InputError, match="has no tokens"):
        trace(model, tokenizer, [""])
    with pytest.raises(InputError, match="outside the tokenizer's vocabulary of 300"):
        trace(model, tokenizer, [Document("x", ids=(1, 999))])


def test_files_of_texts(tmp_path):
    (tmp_path / "a.txt").write_text("plain text")
    rows = [
        {"prompt_ids": [1, 2], "completion_ids": [3], "role": "solver", "reward": 1.0, "step": 3},
        {"input": "q", "output": "a", "gts": "x", "score": 1.0, "step": 5},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "ho"}]},
        {"schema_version": 1, "token_ids": [5, 6, 7], "loss_mask": [False, True, True], "entropy": [0, 0, 0]},
        {"text": "just text", "id": "mine"},
        {"text": "   ", "prompt": None, "completion": ""},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"step": [1], "prompt": ["p"], "completion": ["c"], "reward": [1.0]}).to_parquet(tmp_path / "c.parquet")
    documents, notes = texts.read([tmp_path])
    assert [document.prompt + document.response for document in documents] == ["plain text", "", "qa", "", "", "", "just text", "pc"]
    by_name = {document.name: document for document in documents}
    assert by_name["b:1"].ids == (1, 2, 3)
    assert by_name["b:1"].prompt_tokens == 2
    assert by_name["b:1"].about == {"role": "solver", "reward": 1.0, "step": 3}
    assert (by_name["b:2"].prompt, by_name["b:2"].response) == ("q", "a")
    assert by_name["b:4"].messages == ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
    assert (by_name["b:5"].ids, by_name["b:5"].prompt_tokens) == ((5, 6, 7), 1)
    assert by_name["mine"].response == "just text"
    assert (by_name["c:1"].prompt, by_name["c:1"].response) == ("p", "c")
    assert "1 empty texts are left out" in notes[0]


def read(tmp_path, *records):
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    return texts.read([tmp_path / "r.jsonl"])


def test_fields_that_hold_parts_of_a_prompt(tmp_path):
    asked, told = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    found, notes = read(
        tmp_path,
        {"instruction": "add", "input": "", "output": "4"},
        {"instruction": "add", "input": "2 2", "output": "4"},
        {"prompt": "q", "chosen": [asked, told], "rejected": [asked, told]},
        {"prompt": [asked], "chosen": [asked, told]},
        {"prompt": [asked], "chosen": [told]},
        {"system": "be kind", "prompt": "q", "response": "a"},
        {"prompt": "q", "response": "a", "reasoning_content": "because"},
    )
    assert [(one.prompt, one.response) for one in found[:2]] == [("add", "4"), ("add\n2 2", "4")]
    assert [one.messages for one in found[2:5]] == [(asked, told)] * 3
    assert len(notes) == 3
    assert "joined by a new line" in notes[0]
    assert "'system' is not read" in notes[1]
    assert "'reasoning_content' is not read" in notes[2]


def test_masks_of_several_turns(tmp_path):
    found, _ = read(
        tmp_path,
        {"token_ids": [5, 6, 7, 8], "loss_mask": [0, 1, 0, 1]},
        {"prompt_ids": [1], "completion_ids": [2, 3, 4], "completion_mask": [1, 0, 1]},
        {"prompt_ids": [1], "completion_ids": [2], "completion_mask": [0]},
    )
    assert [one.prompt_tokens for one in found] == [1, 1, 1]
    assert [one.generated for one in found] == [(False, True, False, True), (False, True, False, True), None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "q", "response": ["a", "b"]}\n', "several texts need a record each"),
        ("a.jsonl", b'{"messages": [{"from": "human", "value": "q"}]}\n', "not of chat messages with role and content"),
        ("a.jsonl", b'{"token_ids": [1, 2], "loss_mask": [1]}\n', "a mask of 1 values for 2 tokens"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("a.txt", b"  ", "holds no text"),
        ("a.jsonl", b"{", "not JSON"),
        ("a.jsonl", b"3\n", "neither an object nor a text"),
        ("a.jsonl", b'{"x": 1}\n', "has no text"),
        ("a.jsonl", b'{"completion_ids": [1, -2]}\n', "token ids"),
        ("a.parquet", b"PAR1", "damaged"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        texts.read([tmp_path / name])
    assert message in str(caught.value)


def test_the_command(model, tokenizer, tmp_path, capsys, monkeypatch):
    for seed in (0, 1):
        llama(seed).save_pretrained(tmp_path / f"m{seed}")
        tokenizer.save_pretrained(tmp_path / f"m{seed}")
    (tmp_path / "t.txt").write_text(" ".join(CORPUS[:6]))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli(["m0", "t.txt", "--against", "m1", "--out", "o.parquet", "--json", "o.json", "--top", "2"]) == 0
    shown, stderr = capsys.readouterr()
    assert "forward in float32" in shown
    assert stderr.splitlines() == ["wrote o.parquet", "wrote o.json"]
    assert "KL(1||2)" in shown
    document = json.loads((tmp_path / "o.json").read_text(), parse_constant=pytest.fail)
    assert document["schema"] == "dynamics.entropy/1"
    assert document["summary"][0]["part"] == "all"
    rows = pd.read_parquet(tmp_path / "o.parquet")
    assert {"text", "position", "token_id", "token", "offset", "prompt", "entropy", "varentropy", "surprisal", "rank", "kl_ab"} <= set(rows)
    assert document["summary"][0]["entropy"] == pytest.approx(rows["entropy"].mean())
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]
    assert cli(["m0", "t.txt", "--checkpoints", "m1", "m0", "--json", "s.json", "--figure", "s.png", "--html", "s.html"]) == 0
    steps = json.loads((tmp_path / "s.json").read_text())["series"]
    assert [step["model"] for step in steps] == ["m0", "m0", "m1"]
    assert steps[0]["entropy"] == steps[1]["entropy"] != steps[2]["entropy"]
    assert capsys.readouterr().err.splitlines() == [
        "dynamics.entropy: sorted the series by number: m0, m1",
        *(f"wrote s.{suffix}" for suffix in ("json", "png", "html")),
    ]


def test_what_is_finished_is_kept(tokenizer, tmp_path, capsys, monkeypatch):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    monkeypatch.chdir(tmp_path)
    batches = itertools.count()
    # the first forward pass only probes the structure of the model
    interrupted = fail_in_forward(llama(), lambda _: next(batches) > 2, KeyboardInterrupt())
    monkeypatch.setattr(command, "load", lambda *_: (interrupted, tokenizer))
    assert cli(["m", "t.jsonl", "--out", "o.parquet", "--batch-tokens", "1"]) == 130
    assert "o.partial.parquet" in capsys.readouterr().err
    assert pd.read_parquet("o.partial.parquet")["text"].nunique() == 2
    assert not (tmp_path / "o.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "t.txt"], "nowhere/at/all: no such folder"),
        (["m", "none.txt"], "no such file"),
        (["m", "t.txt", "--temperature", "0"], "must be above 0"),
        (["m", "t.txt", "--out", "x.csv"], "unknown kind of output"),
        (["m"], "required"),
    ],
)
def test_misuse_ends_with_one_line_and_2(tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "t.txt").write_text("x")
    assert cli(arguments) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.count("\n") == 1
