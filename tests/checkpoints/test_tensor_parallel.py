"""Weights split as Meta splits them join to the model that transformers' conversion makes of them."""

import json

import numpy as np
import pytest
from helpers import reasons, write_safetensors

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.matching import match
from dynamics.errors import InputError

torch = pytest.importorskip("torch")

WIDTH, HIDDEN, VOCABULARY, HEADS, KEYS = 16, 24, 32, 4, 2
PARAMS = {"dim": WIDTH, "n_layers": 2, "n_heads": HEADS, "n_kv_heads": KEYS, "vocab_size": VOCABULARY, "norm_eps": 1e-5}
SHAPES = {"attention.wq": (WIDTH, WIDTH), "attention.wk": (8, WIDTH), "attention.wv": (8, WIDTH), "attention.wo": (WIDTH, WIDTH)}
SHAPES |= {"feed_forward.w1": (HIDDEN, WIDTH), "feed_forward.w2": (WIDTH, HIDDEN), "feed_forward.w3": (HIDDEN, WIDTH)}
SHAPES |= {"attention_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def meta_weights(seed=0):
    shapes = {f"layers.{layer}.{name}.weight": shape for layer in range(2) for name, shape in SHAPES.items()}
    shapes |= {"tok_embeddings.weight": (VOCABULARY, WIDTH), "norm.weight": (WIDTH,), "output.weight": (VOCABULARY, WIDTH)}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def hugging_face(weights):
    """Convert the weights as convert_llama_weights_to_hf.py does."""

    def permute(weight, heads):
        rows, columns = weight.shape
        return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)

    converted = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    tensors = {f"{theirs}.weight": weights[f"{ours}.weight"] for ours, theirs in converted.items()}
    for layer in range(2):
        for ours, theirs in NAMES.items():
            value = weights[f"layers.{layer}.{ours}.weight"]
            heads = {"attention.wq": HEADS, "attention.wk": KEYS}.get(ours)
            tensors[f"model.layers.{layer}.{theirs}.weight"] = permute(value, heads) if heads else value
    return tensors


def write_ranks(folder, weights, world, embedding_axis=0, params=PARAMS):
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        parts = {"rope.freqs": torch.ones(3)}
        for name, value in weights.items():
            axis = embedding_axis if "tok_emb" in name else int(".wo." in name or ".w2." in name)
            parts[name] = value if value.ndim == 1 else value.chunk(world, axis)[rank].clone()
        torch.save(parts, folder / f"consolidated.{rank:02d}.pth")
    if params:
        (folder / "params.json").write_text(json.dumps(params))
    return folder


def assert_equals(checkpoint, tensors):
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert (tensor.name, tensor.shape, tensor.dtype) == (name, tuple(tensors[name].shape), "bfloat16")
        assert np.array_equal(tensor.values().reshape(tensor.shape), tensors[name].float().numpy())
        assert np.array_equal(tensor.values(3, 11), tensors[name].float().reshape(-1)[3:11].numpy())


@pytest.mark.parametrize(("world", "embedding_axis"), [(1, 0), (2, 0), (2, 1)])
def test_all_ranks_join_to_the_model_of_transformers(tmp_path, world, embedding_axis):
    weights = meta_weights()
    checkpoint = open_checkpoint(write_ranks(tmp_path, weights, world, embedding_axis))
    assert checkpoint.format == "consolidated"
    assert_equals(checkpoint, hugging_face(weights))
    assert reasons(checkpoint) == {"rope.freqs": "a table of rotary frequencies, not a weight"}
    other = {name: value.float().numpy() for name, value in hugging_face(weights).items()}
    found = match(checkpoint, open_checkpoint(other))
    assert len(found.pairs) == len(weights)


def test_names_stay_without_the_numbers_of_heads_or_with_unknown_modules(tmp_path):
    weights = meta_weights()
    checkpoint = open_checkpoint(write_ranks(tmp_path / "bare", weights, 2, params=None))
    assert_equals(checkpoint, weights)
    single = {name: value.float().numpy() for name, value in weights.items()} | {"layers.0.other.weight": np.ones(3, np.float32)}
    (tmp_path / "mistral").mkdir()
    write_safetensors(tmp_path / "mistral" / "consolidated.safetensors", single)
    (tmp_path / "mistral" / "params.json").write_text(json.dumps(PARAMS))
    assert open_checkpoint(tmp_path / "mistral").tensors.keys() == single.keys()


def test_the_safetensors_of_mistral_get_the_names_of_hugging_face_whole_or_split(tmp_path):
    weights = meta_weights()
    arrays = {name: value.float().numpy() for name, value in weights.items()}
    (tmp_path / "params.json").write_text(json.dumps({"model": PARAMS}))
    halves = dict(list(arrays.items())[:9]), dict(list(arrays.items())[9:])
    for number, half in enumerate(halves):
        write_safetensors(tmp_path / f"consolidated-{number + 1:05d}-of-00002.safetensors", half)
    expected = hugging_face(weights)
    for _ in range(2):
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.tensors.keys() == expected.keys()
        for name, tensor in checkpoint.tensors.items():
            assert np.array_equal(tensor.values().reshape(tensor.shape), expected[name].float().numpy())
        for path in tmp_path.glob("*.safetensors"):
            path.unlink()
        write_safetensors(tmp_path / "consolidated.safetensors", arrays)


def change(path, edit):
    state = torch.load(path)
    edit(state)
    torch.save(state, path)


FIRST, LAST = "consolidated.00.pth", "consolidated.03.pth"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "consolidated.02.pth").unlink(), "not rank 2's"),
        (lambda folder: (folder / LAST).unlink(), r"is of shape \(\d+, \d+\), where the other tensors"),
        (lambda folder: change(folder / LAST, lambda state: state.pop("output.weight")), "output.weight is not in all files"),
        (
            lambda folder: change(folder / LAST, lambda state: state.update({"norm.weight": torch.ones(WIDTH).bfloat16()})),
            "differs between",
        ),
        (
            lambda folder: change(folder / LAST, lambda state: state.update({"output.weight": torch.ones(3, 4)})),
            "not one shape in all files",
        ),
        (lambda folder: [change(path, lambda state: state.pop("norm.weight")) for path in folder.glob("*.pth")], "no norm.weight"),
        (
            lambda folder: [change(path, lambda s: s.update({"layers.0.moe.x": torch.ones(2, 2)})) for path in folder.glob("*.pth")],
            "not known",
        ),
        (lambda folder: (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:700]), "fetch it again"),
        (lambda folder: (folder / "params.json").write_text(json.dumps({**PARAMS, "n_kv_heads": 4})), "is of shape"),
    ],
)
def test_files_that_do_not_join_are_refused(tmp_path, damage, message):
    write_ranks(tmp_path, meta_weights(), 4)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_of_several_ranks_is_refused_and_a_single_file_read(tmp_path):
    write_ranks(tmp_path / "two", meta_weights(), 2)
    with pytest.raises(InputError, match="one tensor-parallel rank's part of the weights; name the folder"):
        open_checkpoint(tmp_path / "two" / FIRST)
    write_ranks(tmp_path / "one", meta_weights(), 1)
    assert "layers.0.attention.wq.weight" in open_checkpoint(tmp_path / "one" / FIRST).tensors


@pytest.mark.parametrize("params", [PARAMS, None])
def test_one_rank_alone_is_refused_where_the_others_are_missing(tmp_path, params):
    folder = write_ranks(tmp_path, meta_weights(), 2, params=params)
    (folder / "consolidated.01.pth").unlink()
    for path in (folder, folder / "consolidated.00.pth"):
        with pytest.raises(InputError, match=r"is of shape \(\d+, \d+\), where the other tensors .* a rank's file is missing"):
            open_checkpoint(path)
    (folder / "consolidated.00.pth").rename(folder / "consolidated.01.pth")
    for path in (folder, folder / "consolidated.01.pth"):
        with pytest.raises(InputError, match=r"one tensor-parallel rank's part of the weights; fetch the other files"):
            open_checkpoint(path)


def test_the_width_of_all_heads_may_differ_from_that_of_the_model(tmp_path):
    weights = meta_weights()
    for layer in range(2):
        for module, rows in (("wq", 2 * WIDTH), ("wk", 2 * WIDTH * KEYS // HEADS), ("wv", 2 * WIDTH * KEYS // HEADS)):
            weights[f"layers.{layer}.attention.{module}.weight"] = torch.ones(rows, WIDTH).bfloat16()
        weights[f"layers.{layer}.attention.wo.weight"] = torch.ones(WIDTH, 2 * WIDTH).bfloat16()
    for world in (1, 2):
        folder = write_ranks(tmp_path / str(world), weights, world, params={**PARAMS, "head_dim": 2 * WIDTH // HEADS})
        assert open_checkpoint(folder).tensors["model.layers.0.self_attn.q_proj.weight"].shape == (2 * WIDTH, WIDTH)
