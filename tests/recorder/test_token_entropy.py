"""The callback measures entropy by role exactly, and changes neither the training nor a random number."""

from __future__ import annotations

import json

import numpy as np
import pytest
from several_ranks import make_model

from dynamics import InputError
from dynamics.recorder import callback
from dynamics.recorder.token_entropy import Rewards, TokenEntropy, encode_text

torch = pytest.importorskip("torch")


def batch(rng: np.random.Generator) -> list[dict]:
    rows = [rng.integers(3, 61, length).tolist() for length in (9, 9, 7, 8)]
    return [
        {"input_ids": ids + [0] * (9 - len(ids)), "attention_mask": [1] * len(ids) + [0] * (9 - len(ids)),
         "labels": [-100] * prompt + ids[prompt:] + [-100] * (9 - len(ids))}
        for ids, prompt in zip(rows, (3, 1, 2, 8), strict=True)
    ]  # fmt: skip


def entropies(model, ids: list[int]) -> list[float]:
    """Compute the entropy at each token from that before it, independently."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [torch.distributions.Categorical(logits=row).entropy().item() for row in logits[:-1]]


PROBES = [[5, 9, 13, 21], list(range(3, 15))]


def train(tmp_path, callbacks: list, steps: int = 2):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = make_model()
    model.config.attention_dropout = 0.2  # takes random numbers in each pass
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.2
    model.model.layers[0].mlp.eval()
    args = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=steps, logging_steps=1, learning_rate=1e-2, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, bf16=False,
    )  # fmt: skip
    transformers.Trainer(model, args, train_dataset=batch(np.random.default_rng(0)), callbacks=callbacks).train()
    return model, torch.get_rng_state()


def test_a_recorded_training_is_the_same_training(tmp_path) -> None:
    pytest.importorskip("transformers")
    record = callback(tmp_path / "run", every=1, probes=PROBES, probe_every=2, report=False)
    (model, state), (plain, plain_state) = train(tmp_path, [record]), train(tmp_path, [])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(state, plain_state)
    assert [module.training for module in model.modules()] == [module.training for module in plain.modules()]
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (document["entropy_every"], document["probe_every"], document["ranks"]) == (1, 2, 1)
    assert any("dropout" in note for note in document["notes"])
    assert {"entropy_seconds", "probe_seconds"} <= set(document["time"])
    first, second = (json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert first["time/entropy_seconds"] > 0
    assert "probe/prompt/entropy" not in first
    assert second["time/probe_seconds"] > 0
    for measured, weights in ((second, model), (document["probes"]["start"], make_model())):
        prefix = "probe/" if measured is second else ""
        expected = np.concatenate([entropies(weights.eval(), ids) for ids in PROBES])
        assert measured[f"{prefix}prompt/entropy"] == pytest.approx(expected.mean(), rel=1e-5)
        assert measured[f"{prefix}prompt/tokens"] == len(expected)


def test_entropy_by_role() -> None:
    pytest.importorskip("transformers")
    model, rewards = make_model(), Rewards()
    rows = batch(np.random.default_rng(1))
    for number, row in enumerate(rows[:3]):
        rewards.add("prompt", [label for label in row["labels"] if label != -100], right=number == 1)
    entropy = TokenEntropy(model, None, rewards)
    model.train()
    model(**{name: torch.tensor([row[name] for row in rows]) for name in rows[0]})
    roles = entropy.take()
    entropy.remove()
    expected: dict[str, list[float]] = {"prompt": [], "completion": [], "right": [], "wrong": []}
    for number, row in enumerate(rows):
        ids = row["input_ids"][: sum(row["attention_mask"])]
        for value, label in zip(entropies(model.eval(), ids), row["labels"][1:], strict=False):
            expected["prompt" if label == -100 else "completion"].append(value)
            if label != -100 and number < 3:
                expected["right" if number == 1 else "wrong"].append(value)
    assert set(roles) == set(expected)
    for role, values in expected.items():
        assert roles[role].tokens == len(values), role
        assert roles[role].entropy / roles[role].tokens == pytest.approx(np.mean(values), rel=1e-5), role
    assert entropy.take() == {}


def test_texts_in_a_row_are_not_one_text() -> None:
    pytest.importorskip("transformers")
    model = make_model().train()
    entropy = TokenEntropy(model)
    ids, positions = torch.tensor([[5, 6, 7, 8, 9, 10]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    model(input_ids=ids, position_ids=positions, labels=torch.tensor([[-100, -100, 7, -100, -100, 10]]))
    roles = entropy.take()
    assert (roles["completion"].tokens, roles["prompt"].tokens) == (2, 2)
    entropy.remove()


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text: str, **_: object) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def test_equal_completions_are_told_apart_by_their_prompts() -> None:
    rewards = Rewards()
    rewards.add("2+2=", [52], right=True)
    rewards.add("2+3=", [52], right=False)
    rewards.add("2+4=", [54], right=True)
    letters = Letters()
    assert rewards.find([50, 43, 50, 61], [52], letters) is True
    assert rewards.find([50, 43, 51, 61], [52], letters) is False
    assert rewards.find([1], [52], letters) is None
    assert rewards.find([1], [54], letters) is True
    assert rewards.find([1], [55], letters) is None
    rewards.add("?", [55], right=True)
    rewards.add(["?"], [55], right=False)
    assert rewards.find([63], [55], None) is None  # nothing encodes the prompts


def test_fixed_texts() -> None:
    assert encode_text({"prompt": "ab", "completion": "c"}, Letters()).ids == (97, 98, 99)
    assert encode_text({"prompt": "ab", "completion": "c"}, Letters()).prompt == 2
    assert encode_text("ab", Letters()).prompt == 2
    assert encode_text([3, 4, 5], None).ids == (3, 4, 5)
    for text, message in ((7, "is no text"), ("a", "1 token"), ("", "0 tokens"), ({"text": "ab"}, "is no text")):
        with pytest.raises(InputError, match=message):
            encode_text(text, Letters())
    with pytest.raises(InputError, match="has no tokenizer"):
        encode_text("ab", None)


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("entropy_every", -1), ("probe_every", 0)])
def test_cadences_are_checked(name: str, value: int, tmp_path) -> None:
    with pytest.raises(InputError, match=f"{name}={value}: must be at least"):
        callback(tmp_path, **{name: value})


def test_a_report_that_fails_does_not_fail_the_training(tmp_path, capsys) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    train(tmp_path, [callback(tmp_path / "run", entropy_every=0)], steps=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "report" in line]
    assert line.startswith("dynamics.recorder: the report was not written (")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["status"] == "finished"
