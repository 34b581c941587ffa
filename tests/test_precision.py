"""The two fine-tunes differ only in the dtype of the masters; a small model of the notation replaces the real model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

from analyses import precision
from dynamics.presentation import style
from dynamics.train import tiny

LEARNING_RATE = 1e-4
OPTIONS = (
    precision.OPTIONS.replace("--steps 20", "--steps 2").replace("1e-5", str(LEARNING_RATE)).replace("--threads 2", "--threads 1")
    + " --save-every 1"
)
TEXT = "\n\n".join(f"def f(x): return x+{number % 9} " * 10 for number in range(60))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> precision.Source:
    """Make a random model with weights of realistic size, so that a small step is lost in bf16."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    words = tiny.build_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return precision.Source(str(folder), "tiny", TEXT, "made up", OPTIONS)


@pytest.fixture(scope="module")
def runs(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    precision.make_runs(folder, source)
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def tuned(runs, name):
    return weights(precision.tuned_checkpoint(runs, name))


def spacing(values):
    """Compute the distance from each bf16 value to its neighbour nearer zero, the smaller of its two steps."""
    bits = values.view(torch.int16)
    nearer = torch.where(values == 0, bits, bits - 1).view(torch.bfloat16)
    return (values.double() - nearer.double()).abs()


@pytest.mark.slow
def test_both_runs_start_equal_and_differ_in_the_dtype_alone(runs):
    documents = {name: json.loads((runs / name / "run.json").read_text()) for name in precision.MASTER_DTYPES}
    configs = [document["config"] for document in documents.values()]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} == {"master_dtype"}
    assert {document["compute_dtype"] for document in documents.values()} == {"float32"}
    base = weights(runs / "base")
    for name in precision.MASTER_DTYPES:
        for key, value in weights(runs / name / "checkpoints" / "step_000000").items():
            assert torch.equal(value.float(), base[key].float()), key
    losses = [[json.loads(line)["loss"] for line in (runs / name / "metrics.jsonl").read_text().splitlines()] for name in documents]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]


@pytest.mark.slow
def test_folders_hold_what_was_trained(runs):
    stored = {name: tuned(runs, name) for name in precision.COMPARISONS} | {"base": weights(runs / "base")}
    dtypes = {"base": torch.bfloat16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp32_saved_as_bf16": torch.bfloat16}
    for name, tensors in stored.items():
        assert {value.dtype for value in tensors.values()} == {dtypes[name]}
        assert list(tensors) == list(stored["base"])
    for key, value in stored["fp32"].items():
        assert torch.equal(value.to(torch.bfloat16), stored["fp32_saved_as_bf16"][key])
    assert any(not torch.equal(stored["bf16"][key], stored["fp32_saved_as_bf16"][key]) for key in stored["base"])


@pytest.mark.slow
def test_a_bf16_weight_moves_only_if_the_step_reaches_half_its_spacing(runs):
    """AdamW's first step has the size of the learning rate for any gradient, which determines the weights that cannot change."""
    bf16, fp32 = (weights(runs / name / "checkpoints" / "step_000001") for name in precision.MASTER_DTYPES)
    stuck = moved = 0
    for name, before in weights(runs / "base").items():
        too_coarse = spacing(before) / 2 > 1.05 * LEARNING_RATE
        assert torch.equal(bf16[name][too_coarse], before[too_coarse]), name
        stuck += int((too_coarse & (fp32[name] != before.float())).sum())
        moved += int((bf16[name] != before).sum())
        assert ((fp32[name] - before.float()).abs() <= 1.05 * LEARNING_RATE + 2.0**-24).all(), name
    assert stuck > 100  # weights that moved with fp32 masters and could not with bf16 weights
    assert moved > 100


@pytest.mark.slow
def test_finished_runs_are_used_again_until_something_differs(source, runs, tmp_path):
    folder = tmp_path / "precision"
    shutil.copytree(runs, folder)

    def changed(source: precision.Source, force: bool = False) -> bool:
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*/model.safetensors")}
        precision.make_runs(folder, source, force)
        return before != {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*/model.safetensors")}

    # the base is named by its path, so that a copied folder is another base once
    assert changed(replace(source, options=source.options + " --weight-decay 0.1"))
    assert not changed(replace(source, options=source.options + " --weight-decay 0.1"))
    assert changed(replace(source, text=source.text[:-1500], options=source.options + " --weight-decay 0.1"))


def test_passages_are_whole_paragraphs(source):
    passages = list(precision.passages(source.text))
    joined = [passage["prompt"] + passage["completion"] for passage in passages]
    assert "\n\n".join(joined) == source.text[: len("\n\n".join(joined))]
    assert all(len(text) >= precision.PASSAGE for text in joined)
    assert all(passage["completion"].startswith(" ") for passage in passages)


@pytest.mark.slow
def test_the_measurement_of_a_run(source, runs):
    by_rule, by_step = precision.measure(runs)
    base = weights(runs / "base")
    value = by_rule.set_index(["folder", "rule"])["changed"]
    for folder in precision.COMPARISONS:
        differ = sum(int((tensor.float() != base[name].float()).sum()) for name, tensor in tuned(runs, folder).items())
        assert value[folder, "exact"] == differ
    # rounding the masters on save is the only difference between the two fp32 rows
    assert value["fp32", "bf16"] == value["fp32_saved_as_bf16", "bf16"] == value["fp32_saved_as_bf16", "exact"]
    run = precision.describe_runs(runs, source)
    assert set(by_step.groupby("folder")["weights"].sum()) == {run["parameters"]}
    assert run["parameters"] == sum(tensor.numel() for tensor in base.values())
    assert run["base_zeros"] == sum(int((tensor == 0).sum()) for tensor in base.values())
    with style.use_style():
        figure = precision.draw(by_rule, by_step, run)
        figure.canvas.draw()
        for text in (figure._suptitle, figure._supxlabel):
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
    assert len(figure.axes) == 2
    assert "2 steps" in figure.get_supxlabel()


def test_titles_are_taken_from_the_tables():
    rows = [("bf16", 0.125, 0.375), ("fp32", 0.25, 0.3), ("fp32_saved_as_bf16", 0.75, 0.74)]
    by_rule = pd.DataFrame(
        [(f, r, v) for f, *vs in rows for r, v in zip(("exact", "atol"), vs, strict=True)], columns=["folder", "rule", "sparsity"]
    )
    title = precision.finding(by_rule)
    assert title.index("12.5") < title.index("25.0") < title.index("75.0")
    title = precision.spread(by_rule)
    assert title.index("25.0 points") < title.index("5.0 for") < title.index("1.0 for")
    by_step = pd.DataFrame([("bf16", "0", 0.99), ("bf16", "1", 0.01), ("fp32", "0", 0.9)], columns=["folder", "steps", "fraction"])
    title = precision.moved(by_step)
    assert title.index("1.0") < title.index("10.0")
