"""The two fine-tunes differ in the dtype of the masters and in nothing else; a tiny random Llama stands in for the real model."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from analyses import precision
from dynamics.errors import InputError
from dynamics.presentation import style

SETTINGS = precision.Settings(learning_rate=1e-3, steps=4, batch=2, length=16, threads=1)
SOURCE = {"model": "tiny", "text": "random"}
DTYPES = [torch.bfloat16, torch.float32]


class Letters:
    """A tokenizer as small as the model: a character a token."""

    def __call__(self, text, **options):
        return {"input_ids": [ord(letter) % 32 for letter in text]}

    def save_pretrained(self, folder):
        pass


def tiny():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.1,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return transformers.LlamaForCausalLM(config)


def load():
    return tiny(), Letters(), "the quick brown fox jumps over the lazy dog " * 20


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ids():
    return torch.from_numpy(np.random.default_rng(1).integers(0, 32, 300))


@pytest.fixture
def base():
    return {name: parameter.detach().to(torch.bfloat16) for name, parameter in tiny().named_parameters()}


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


def spacing(weights):
    """Distance from each bf16 value to its neighbour nearer zero, the smaller of its two steps."""
    bits = weights.view(torch.int16)
    nearer = torch.where(weights == 0, bits, bits - 1).view(torch.bfloat16)
    return (weights.double() - nearer.double()).abs()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_learning_rate_no_change(base, ids, dtype):
    tuned = precision.fine_tune(tiny(), base, ids, dtype, replace(SETTINGS, learning_rate=0.0))
    assert_same({name: value.to(torch.bfloat16) for name, value in tuned.weights.items()}, base)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_seed_gives_the_same_bits_whatever_the_model_held_before(base, ids, dtype):
    model = tiny()
    first = precision.fine_tune(model, base, ids, dtype, SETTINGS)
    torch.manual_seed(99)  # no number may come from global state
    second = precision.fine_tune(model, base, ids, dtype, SETTINGS)
    assert_same(first.weights, second.weights)
    assert (first.losses, first.grad_norms) == (second.losses, second.grad_norms)
    other = precision.fine_tune(model, base, ids, dtype, replace(SETTINGS, seed=1))
    assert other.losses != first.losses


def test_both_runs_start_equal_and_read_the_same(base, ids):
    bf16, fp32 = (precision.fine_tune(tiny(), base, ids, dtype, SETTINGS) for dtype in DTYPES)
    assert bf16.losses[0] == fp32.losses[0]
    assert bf16.losses[1:] != fp32.losses[1:]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_model_computes_with_the_masters_rounded_to_bf16(base, ids, dtype):
    model = tiny()
    tuned = precision.fine_tune(model, base, ids, dtype, SETTINGS)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert tuned.weights[name].dtype == dtype
        assert torch.equal(parameter, tuned.weights[name].to(torch.bfloat16).float()), name


def test_fp32_masters_equal_a_plain_training_loop_in_the_first_step(base, ids):
    """Before the first step masters are bf16 values, so rounding them for the computation changes nothing."""
    plain = tiny()
    plain.load_state_dict({name: value.float() for name, value in base.items()}, strict=False)
    tokens = precision.batch(ids, SETTINGS, 0)
    plain.train()
    plain(input_ids=tokens, labels=tokens).loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), SETTINGS.clip)
    torch.optim.AdamW(plain.parameters(), SETTINGS.learning_rate, weight_decay=0.0, foreach=False).step()
    ours = precision.fine_tune(tiny(), base, ids, torch.float32, replace(SETTINGS, steps=1))
    assert_same(ours.weights, {name: parameter.detach() for name, parameter in plain.named_parameters()})


def test_a_bf16_weight_moves_only_if_the_step_reaches_half_its_spacing(base, ids):
    """AdamW's first step is the learning rate long whatever the gradient, so it is known beforehand which weights cannot move."""
    settings = replace(SETTINGS, steps=1, learning_rate=1e-4)
    bf16, fp32 = (precision.fine_tune(tiny(), base, ids, dtype, settings).weights for dtype in DTYPES)
    stuck = moved = 0
    for name, before in base.items():
        too_coarse = spacing(before) / 2 > 1.05 * settings.learning_rate
        assert torch.equal(bf16[name][too_coarse], before[too_coarse]), name
        stuck += int((too_coarse & (fp32[name] != before.float())).sum())
        moved += int((bf16[name] != before).sum())
        assert ((fp32[name] - before.float()).abs() <= 1.05 * settings.learning_rate + 2.0**-24).all(), name
    assert stuck > 100  # weights that moved with fp32 masters and could not with bf16 weights
    assert moved > 100


def test_batches_are_a_function_of_seed_and_step(ids):
    batches = [precision.batch(ids, SETTINGS, step) for step in range(3)]
    assert [tuple(tokens.shape) for tokens in batches] == [(2, 16)] * 3
    assert torch.equal(precision.batch(ids, SETTINGS, 2), batches[2])
    assert not torch.equal(batches[0], batches[1])
    text = ids.tolist()
    for row in batches[0].tolist():
        assert any(text[start : start + 16] == row for start in range(len(text) - 15))


def test_a_text_shorter_than_a_sequence_is_refused(ids):
    with pytest.raises(InputError, match=r"15 tokens.* 16"):
        precision.batch(ids[:15], SETTINGS, 0)


def test_folders_hold_what_was_trained(tmp_path):
    run = precision.make_runs(tmp_path, SETTINGS, SOURCE, load)
    stored = {name: safetensors_torch.load_file(tmp_path / name / "model.safetensors") for name in ("base", *precision.COMPARISONS)}
    for name, tensors in stored.items():
        assert {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()} == {run["storage_dtype"][name]}
        assert list(tensors) == list(stored["base"])
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["dtype"] == run["storage_dtype"][name]
        assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).num_parameters() == run["parameters"]
    for name, tensor in stored["fp32"].items():
        assert torch.equal(tensor.to(torch.bfloat16), stored["fp32_saved_as_bf16"][name])
    assert any(not torch.equal(stored["bf16"][name], stored["fp32_saved_as_bf16"][name]) for name in stored["base"])
    assert run == json.loads((tmp_path / "run.json").read_text())
    assert run["status"] == "finished"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_finished_runs_are_used_again_until_something_differs(tmp_path):
    calls = []

    def counted():
        calls.append(1)
        return load()

    first = precision.make_runs(tmp_path, SETTINGS, SOURCE, counted)
    assert precision.make_runs(tmp_path, SETTINGS, SOURCE, counted) == first
    assert len(calls) == 1
    again = precision.make_runs(tmp_path, SETTINGS, SOURCE, counted, force=True)
    assert [again["runs"][name]["losses"] for name in again["runs"]] == [first["runs"][name]["losses"] for name in first["runs"]]
    precision.make_runs(tmp_path, replace(SETTINGS, learning_rate=2e-3), SOURCE, counted)
    precision.make_runs(tmp_path, replace(SETTINGS, learning_rate=2e-3), {**SOURCE, "text": "other"}, counted)
    (tmp_path / "fp32" / "config.json").unlink()
    precision.make_runs(tmp_path, replace(SETTINGS, learning_rate=2e-3), {**SOURCE, "text": "other"}, counted)
    assert len(calls) == 5


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (OSError, "failed")])
def test_a_run_that_stops_says_so_and_is_not_used(tmp_path, error, status):
    def stops():
        raise error

    with pytest.raises(error):
        precision.make_runs(tmp_path, SETTINGS, SOURCE, stops)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == status
    assert precision.make_runs(tmp_path, SETTINGS, SOURCE, load)["status"] == "finished"


def test_the_measurement_of_a_run(tmp_path):
    run = precision.make_runs(tmp_path, SETTINGS, SOURCE, load)
    by_rule, by_step = precision.measure(tmp_path)
    stored = {name: safetensors_torch.load_file(tmp_path / name / "model.safetensors") for name in ("base", *precision.COMPARISONS)}
    value = by_rule.set_index(["folder", "rule"])["changed"]
    for folder in precision.COMPARISONS:
        differ = sum(int((stored[folder][name].float() != tensor.float()).sum()) for name, tensor in stored["base"].items())
        assert value[folder, "exact"] == differ
    # rounding the masters on save is all that parts the two fp32 rows
    assert value["fp32", "bf16"] == value["fp32_saved_as_bf16", "bf16"] == value["fp32_saved_as_bf16", "exact"]
    sums = by_step.groupby("folder")["weights"].sum()
    assert set(sums) == {run["parameters"]}
    run["config"]["source"] = {"model": "SmolLM2-135M-Instruct (Q4_1, dequantised)", "text": "Python 3.14's language reference"}
    with style.use_style():
        figure = precision.draw(by_rule, by_step, run)
        figure.canvas.draw()
        for text in (figure._suptitle, figure._supxlabel):
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
    assert len(figure.axes) == 2
    assert "4 steps" in figure.get_supxlabel()


def test_titles_are_taken_from_the_tables():
    rows = [("bf16", 0.125, 0.375), ("fp32", 0.25, 0.3), ("fp32_saved_as_bf16", 0.75, 0.74)]
    by_rule = pd.DataFrame(
        [(f, r, v) for f, *vs in rows for r, v in zip(("exact", "atol"), vs, strict=True)], columns=["folder", "rule", "sparsity"]
    )
    title = precision.finding(by_rule)
    assert title.index("12.50 %") < title.index("25.00 %") < title.index("75.00 %")
    title = precision.spread(by_rule)
    assert title.index("25.0 points") < title.index("5.0 for") < title.index("1.0 for")
    by_step = pd.DataFrame([("bf16", "0", 0.99), ("bf16", "1", 0.01), ("fp32", "0", 0.9)], columns=["folder", "steps", "fraction"])
    title = precision.moved(by_step)
    assert title.index("1.00 %") < title.index("10.00 %")
