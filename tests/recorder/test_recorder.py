"""The recorder gives the numbers of ``dynamics.sparsity`` in any training loop, transformers' Trainer and TRL."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dynamics import InputError, sparsity
from dynamics.recorder import Recorder, callback, recording
from dynamics.runs.directory import RunDirectory


def lines(path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_numbers_are_those_of_sparsity(tmp_path, pair) -> None:
    base, tuned = pair
    half = {name: (value + tuned[name]) / 2 for name, value in base.items()}
    with Recorder(tmp_path / "run", every=2, base=base) as recorder:
        recorder.step(1, half, {"loss": 1.5})
        recorder.step(2, tuned.items(), {"loss": float("nan")})
    first, second = lines(tmp_path / "run")
    assert first["step"], second["step"] == (1, 2)
    assert (first["loss"], second["loss"]) == (1.5, None)
    assert "sparsity/exact" not in first
    whole, last = sparsity.compare(base, tuned).total, sparsity.compare(half, tuned).total
    for rule, value in whole.sparsity.items():
        assert second[f"sparsity/{rule}"] == value
        assert second[f"sparsity_step/{rule}"] == last.sparsity[rule]
    assert second["update_norm"] == pytest.approx(whole.update_norm, rel=1e-12)
    assert second["step_norm"] == pytest.approx(last.update_norm, rel=1e-12)
    assert second["relative_update"] == pytest.approx(whole.relative_update, rel=1e-12)
    assert recorder.seconds > 0


def test_snapshots_do_not_follow_the_weights(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.ones(10, dtype=torch.bfloat16)
    recorder = Recorder(tmp_path, base={"w": weight})
    for step in (1, 2):
        weight[:step] = 2.0
        recorder.step(step, {"w": weight}, {})
    assert [line["sparsity/exact"] for line in lines(tmp_path)] == [0.9, 0.8]
    assert [line["sparsity_step/exact"] for line in lines(tmp_path)] == [0.9, 0.9]


def test_a_base_takes_no_more_memory_than_its_values_need(tmp_path) -> None:
    """Float32 weights that are values of bfloat16 are kept as such, with the numbers of float32, also of special values."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    special = np.array([0.0, -0.0, 1e-39, -1e-40, np.inf, -np.inf, np.nan, 3.0e38], np.float32)
    narrow = torch.from_numpy(np.concatenate([rng.normal(0, 0.02, 3000).astype(np.float32), special])).bfloat16().float()
    base = {"narrow": narrow, "wide": torch.from_numpy(rng.normal(0, 0.02, 3000).astype(np.float32)), "none": torch.zeros(0)}
    last = base["narrow"].clone()
    last[-1] = 3.0001e38  # one weight that bfloat16 does not hold keeps the whole tensor in float32
    base["nearly"] = last
    states = [{name: value + step * 1e-6 * torch.randn(value.shape) for name, value in base.items()} for step in range(4)]
    states[1]["narrow"][:3000] = base["narrow"][:3000]
    recorder = Recorder(tmp_path / "copied", base=base)
    apart = Recorder(tmp_path / "shared", base=base, keeps_base=True)
    assert {name: (value.nbytes, kind) for name, (value, kind) in recorder._base.items()} == {
        "narrow": (2 * 3008, "bfloat16"),
        "wide": (4 * 3000, "float32"),
        "none": (0, "float32"),
        "nearly": (4 * 3008, "float32"),
    }
    assert all(np.shares_memory(value, base[name].numpy()) for name, (value, _) in apart._base.items() if value.size)
    measured = [[each.step(step + 1, state, {}) for step, state in enumerate(states)] for each in (recorder, apart)]
    for ours, expected in zip(*measured, strict=True):
        assert ours.pop("time/recorder_seconds") > 0
        expected.pop("time/recorder_seconds")
        assert repr(ours) == repr(expected)  # also where norms are NaN
    assert measured[0][1]["sparsity/exact"] > 0.3
    held = [value.ctypes.data for value, _ in recorder._previous.values() if value.size]
    recorder.step(5, base, {})
    assert [value.ctypes.data for value, _ in recorder._previous.values() if value.size] == held  # the same memory again
    assert recorder.step(6, base, {})["sparsity_step/exact"] == 1
    assert not any(np.shares_memory(value, base[name].numpy()) for name, (value, _) in recorder._previous.items())


def test_other_parameters_are_refused(tmp_path, pair) -> None:
    recorder = Recorder(tmp_path, base=pair[0])
    with pytest.raises(InputError, match="only one of the two"):
        recorder.step(1, {"other": np.ones(3, np.float32)}, {})


def test_a_kill_leaves_whole_lines(tmp_path) -> None:
    directory = RunDirectory(tmp_path)
    for step in range(1, 6):
        directory.append_metrics({"step": step})
        directory.write_rows(f"rollouts/step_{step}.jsonl", [{"a": step}])
    directory.close()
    (tmp_path / "checkpoints" / "step_000004").mkdir(parents=True)
    (tmp_path / "rollouts" / ".step_9-x.jsonl").write_text("half")
    (tmp_path / "checkpoints" / ".step_000005.partial").mkdir()
    (tmp_path / ".mine").write_text("not ours to remove")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    directory.truncate(3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == ["step_1.jsonl", "step_2.jsonl", "step_3.jsonl"]
    assert not list((tmp_path / "checkpoints").iterdir())
    assert (tmp_path / ".mine").exists()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(InputError, match="No space left"):
        RunDirectory(tmp_path).append_metrics({"step": 1})


def test_tensorboard(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    with Recorder(tmp_path, tensorboard=True) as recorder:
        recorder.step(1, None, {"loss": 2.0})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [2.0]


def tiny_model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from dynamics.train import tiny

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, initializer_range=0.3)), tiny.build_tokenizer()


def independent(model, rows, compute: str) -> tuple[float, float]:
    """Compute mean entropy and surprisal of labelled tokens independently."""
    import torch

    entropy, surprisal = [], []
    for ids, labels in rows:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=compute == "bfloat16"):
            logits = model(input_ids=torch.tensor([ids])).logits[0].double()
        for index, label in enumerate(labels[1:]):
            if label != -100:
                entropy.append(torch.distributions.Categorical(logits=logits[index]).entropy().item())
                surprisal.append(-torch.log_softmax(logits[index], -1)[label].item())
    return float(np.mean(entropy)), float(np.mean(surprisal))


def check(run, tmp_path, trainer, steps: int) -> list[dict]:
    rows = lines(run)
    assert [line["step"] for line in rows] == list(range(1, steps + 1))
    for line in rows:
        for name in ("loss", "entropy", "nll_sampled", "grad_norm", "tokens", "seconds", "sparsity/bf16", "sparsity_step/exact"):
            assert line[name] is not None, name
    trainer.save_model(tmp_path / "tuned")
    whole = sparsity.compare(tmp_path / "base", tmp_path / "tuned").total
    for rule, value in whole.sparsity.items():
        assert rows[-1][f"sparsity/{rule}"] == value
    document = json.loads((run / "run.json").read_text())
    assert document["status"] == "finished"
    assert document["master_dtype"] == "float32"
    assert "hub_token" not in document["config"]
    return rows


def test_transformers_trainer(compute: str, tmp_path) -> None:
    pytest.importorskip("accelerate")
    import transformers

    model, _ = tiny_model()
    model.save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    rows = [rng.integers(14, 60, 8).tolist() for _ in range(8)]
    data = [{"input_ids": ids, "labels": [-100] * 3 + ids[3:]} for ids in rows]
    expected = independent(model.eval(), [(example["input_ids"], example["labels"]) for example in data], compute)
    args = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3, logging_steps=1,
        learning_rate=1e-3, use_cpu=True, bf16=compute == "bfloat16", report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    record = callback(tmp_path / "run", every=1, method="sft", report=False)
    trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[record])
    trainer.train()
    recorded = check(tmp_path / "run", tmp_path, trainer, 3)
    assert (recorded[0]["entropy"], recorded[0]["nll_sampled"]) == pytest.approx(expected, rel=1e-5 if compute == "float32" else 1e-2)
    assert recorded[0]["loss"] == pytest.approx(expected[1], rel=1e-3 if compute == "float32" else 1e-2)
    assert recorded[0]["tokens"] == 40


@pytest.mark.slow
def test_a_compiled_model_in_a_trainer(compute: str, tmp_path) -> None:
    pytest.importorskip("accelerate")
    import transformers

    model, _ = tiny_model()
    rng = np.random.default_rng(0)
    rows = [rng.integers(14, 60, 8).tolist() for _ in range(4)]
    data = [{"input_ids": ids, "labels": [-100] * 3 + ids[3:]} for ids in rows]
    expected = independent(model.eval(), [(example["input_ids"], example["labels"]) for example in data], compute)
    args = transformers.TrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=1, logging_steps=1, use_cpu=True, bf16=compute == "bfloat16",
        torch_compile=True, torch_compile_backend="eager", report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    transformers.Trainer(
        model, args, train_dataset=data, callbacks=[callback(tmp_path / "run", every=1, method="sft", report=False)]
    ).train()
    (line,) = lines(tmp_path / "run")
    assert (line["entropy"], line["nll_sampled"]) == pytest.approx(expected, rel=1e-5 if compute == "float32" else 1e-2)


def test_trl_sft(compute: str, tmp_path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, words = tiny_model()
    model.save_pretrained(tmp_path / "base")
    data = datasets.Dataset.from_list([{"prompt": f"<D>x+{n}<in>2<out>", "completion": str(n + 2)} for n in range(8)])
    args = trl.SFTConfig(
        str(tmp_path / "out"), per_device_train_batch_size=8, max_steps=3, logging_steps=1, learning_rate=1e-3, use_cpu=True,
        bf16=compute == "bfloat16",
        report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model, args, train_dataset=data, processing_class=words, callbacks=[callback(tmp_path / "run", every=1, report=False)]
    )
    trainer.train()
    rows = check(tmp_path / "run", tmp_path, trainer, 3)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["method"] == "sft"
    assert rows[0]["loss"] == pytest.approx(rows[0]["nll_sampled"], rel=1e-3 if compute == "float32" else 1e-2)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["compute_dtype"] == compute


def test_trl_grpo(compute: str, tmp_path) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, words = tiny_model()
    model.save_pretrained(tmp_path / "base")
    data = datasets.Dataset.from_list([{"prompt": f"<D>x+{n}<in>2<out>"} for n in range(8)])
    args = trl.GRPOConfig(
        str(tmp_path / "out"), per_device_train_batch_size=8, num_generations=4, max_completion_length=8, max_steps=3, logging_steps=1,
        learning_rate=1e-3, use_cpu=True,
        bf16=compute == "bfloat16", report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip

    def length(completions, **_):
        return [float(len(completion)) for completion in completions]

    reward = recording(length, tmp_path / "run", right_above=6)
    trainer = trl.GRPOTrainer(
        model, reward, args, train_dataset=data, processing_class=words, callbacks=[callback(tmp_path / "run", every=1, report=False)]
    )
    trainer.train()
    recorded = check(tmp_path / "run", tmp_path, trainer, 3)
    for step in (1, 2, 3):
        rows = [json.loads(line) for line in (tmp_path / "run" / "rollouts" / f"step_{step}.jsonl").read_text().splitlines()]
        assert np.mean([row["reward"] for row in rows]) == pytest.approx(recorded[step - 1]["reward"], rel=1e-5)
        assert "group/zero_std" in recorded[step - 1]
        line = recorded[step - 1]
        roles = {role: line.get(f"{role}/tokens", 0) for role in ("right", "wrong", "prompt")}
        assert roles["right"] == sum(len(row["completion_ids"]) for row in rows if row["reward"] > 6)
        assert roles["right"] + roles["wrong"] == line["tokens"] == sum(len(row["completion_ids"]) for row in rows)
        parts = [line[f"{role}/entropy"] * roles[role] for role in ("right", "wrong") if roles[role]]
        assert sum(parts) / line["tokens"] == pytest.approx(line["entropy"], rel=1e-12)
        assert roles["prompt"] == sum(len(words(text=row["prompt"])["input_ids"]) - 1 for row in rows)
        assert line["prompt/entropy"] > 0


@pytest.mark.slow
def test_trl_grpo_with_lora(tmp_path) -> None:
    trl, datasets, peft = pytest.importorskip("trl"), pytest.importorskip("datasets"), pytest.importorskip("peft")
    model, words = tiny_model()
    model.save_pretrained(tmp_path / "base")
    data = datasets.Dataset.from_list([{"prompt": f"<D>x+{n}<in>2<out>"} for n in range(8)])
    args = trl.GRPOConfig(
        str(tmp_path / "out"), per_device_train_batch_size=8, num_generations=4, max_completion_length=8, max_steps=4, logging_steps=1,
        learning_rate=1e-2, use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model,
        lambda completions, **_: [float(number % 2) for number in range(len(completions))],
        args,
        train_dataset=data,
        processing_class=words,
        callbacks=[callback(tmp_path / "run", every=2, report=False)],
        peft_config=peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    trainer.model.merge_and_unload().save_pretrained(tmp_path / "merged")
    whole = sparsity.compare(tmp_path / "base", tmp_path / "merged").total
    line = lines(tmp_path / "run")[-1]
    for rule, value in whole.sparsity.items():
        assert line[f"sparsity/{rule}"] == pytest.approx(value, abs=2e-4)
    assert line["update_norm"] == pytest.approx(whole.update_norm, rel=1e-6)
    assert line["sparsity/exact"] > 0.5 > line["factors/sparsity/exact"]
    assert line["entropy"] > 0
    assert any("merged weights" in note for note in json.loads((tmp_path / "run" / "run.json").read_text())["notes"])
    assert sparsity.compare(tmp_path / "base", tmp_path / "adapter").total.update_norm == pytest.approx(whole.update_norm, rel=1e-6)


ADAPTERS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["norm", "lm_head"], "use_rslora": True},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"], "init_lora_weights": "gaussian"},
    "tokens": {"target_modules": ["k_proj"], "trainable_token_indices": [3, 5]},
    "pissa": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
}


def weights_of(model, trained: bool) -> dict:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad or not trained}


def numbered(weights: dict) -> dict:
    """Give weights names that are not those of an adapter."""
    return {f"weight.{number}": value for number, value in enumerate(weights.values())}


@pytest.mark.parametrize(("kind", "dtype"), [*((kind, "float32") for kind in ADAPTERS), ("plain", "bfloat16"), ("dora", "bfloat16")])
def test_an_adapter_is_measured_merged_and_by_its_factors(kind, dtype, tmp_path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    model, _ = tiny_model()
    model.to(getattr(torch, dtype))
    base = weights_of(model, trained=False)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **ADAPTERS[kind]))
    start = weights_of(adapted, trained=True)
    recorder = Recorder(tmp_path, base=adapted)
    for step in (1, 2):
        with torch.no_grad():
            for value in adapted.parameters():
                if value.requires_grad:
                    value.add_(0.01 * torch.randn_like(value))
        recorder.step(step, adapted, {})
    assert recorder.not_merged == ""
    factors = sparsity.compare(numbered(start), numbered(weights_of(adapted, trained=True)))
    whole = sparsity.compare(base, adapted.merge_and_unload().state_dict()).total
    first, line = lines(tmp_path)
    for rule, value in whole.sparsity.items():
        assert line[f"sparsity/{rule}"] == pytest.approx(value, abs=1e-3)  # PEFT adds in the dtype of the factors
    assert line["update_norm"] == pytest.approx(whole.update_norm, rel=1e-3)
    assert line["relative_update"] == pytest.approx(whole.relative_update, rel=1e-3)
    assert {rule: line[f"factors/sparsity/{rule}"] for rule in whole.sparsity} == factors.total.sparsity
    assert line["factors/update_norm"] == pytest.approx(factors.total.update_norm, rel=1e-9)
    if kind == "plain":
        assert first["sparsity_step/exact"] == first["sparsity/exact"]
    assert 0 < line["step_norm"] < 1.5 * line["update_norm"]


def test_what_is_not_merged_is_said(tmp_path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    model, _ = tiny_model()
    adapted = peft.get_peft_model(model, peft.LoHaConfig(r=2, target_modules=["q_proj"]))
    recorder = Recorder(tmp_path / "loha", base=adapted)
    recorder.step(1, adapted, {})
    assert "no factors of LoRA" in recorder.not_merged
    (line,) = lines(tmp_path / "loha")
    assert "sparsity/exact" not in line
    assert line["factors/sparsity/exact"] == 1
    weights = {"layer.lora_A.default.weight": torch.ones(2, 3)}
    recorder = Recorder(tmp_path / "names", base=weights)
    recorder.step(1, weights, {})
    assert "give the recorder the model itself" in recorder.not_merged
    assert lines(tmp_path / "names")[0]["factors/sparsity/exact"] == 1


@pytest.mark.slow
def test_a_training_ends_with_its_report(tmp_path, capsys) -> None:
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, words = tiny_model()
    model.save_pretrained(tmp_path / "base")
    model = type(model).from_pretrained(tmp_path / "base")
    data = datasets.Dataset.from_list([{"prompt": f"<D>x+{n}<in>2<out>", "completion": str(n + 2)} for n in range(8)])
    args = trl.SFTConfig(
        str(tmp_path / "out"), per_device_train_batch_size=8, max_steps=3, logging_steps=1, learning_rate=1e-3, use_cpu=True, bf16=False,
        report_to=[], save_strategy="steps", save_steps=1, disable_tqdm=True,
    )  # fmt: skip
    record = callback(tmp_path / "run", every=1, probes=["<D>x+1<in>2<out>3"], probe_every=1)
    trl.SFTTrainer(model, args, train_dataset=data, processing_class=words, callbacks=[record]).train()
    assert "the report was not written" not in capsys.readouterr().err
    text = (tmp_path / "run" / "report.html").read_text()
    assert "What did this run do to the model?" in text
    whole = sparsity.compare(tmp_path / "base", tmp_path / "out" / "checkpoint-3").total
    assert f"{100 * whole.sparsity['bf16']:.4g} %" in text
