"""Write the valid inputs from which the readers of checkpoints are fuzzed: ``python tests/fuzz/make_seeds.py``; it needs torch and gguf."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import numpy as np
import torch
from checkpoints import ADAPTER, BASE, FIXED, SEEDS, header_and_zeros

DATA = SEEDS.parents[1]


def write(reader: str, name: str, data: bytes) -> None:
    path = SEEDS / reader / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def pickled(path: Path | io.BytesIO) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def pair(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(2, "little") + first + second


def pickles() -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    states = {
        "plain": {"w": matrix, "b": torch.zeros(3, dtype=torch.bfloat16)},
        "nested": {"state_dict": {"a.w": matrix.T, "a.v": matrix[:, 1:]}, "optimizer": {"state": {}}, "step": 3},
        "parameter": {"model": torch.nn.Linear(2, 2).state_dict(), "p": torch.nn.Parameter(matrix)},
        "others": {"s": matrix.to_sparse(), "m": torch.zeros(2, device="meta"), "n": np.float64(3), "buffer_names": ["s"]},
    }
    for name, state in states.items():
        write("read_pickled", name, pickled(io.BytesIO(saved(state))))
    write("read_pickled", "legacy", b"l" + saved(states["plain"], _use_new_zipfile_serialization=False))
    write("read_pickled", "archive", b"z" + saved({"w": torch.zeros(2)}))


def arrays() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    held = {
        "plain": matrix, "columns": np.asfortranarray(matrix), "big": matrix.astype(">f2"), "scalar": np.float64(3),
        "objects": np.array([{}]), "fields": np.zeros(2, [("a", "<f4"), ("b", "<i2")]), "flags": matrix > 1,
    }  # fmt: skip
    for name, array in held.items():
        stream = io.BytesIO()
        np.save(stream, array)
        write("read_arrays", name, b"n" + stream.getvalue())
    for name, save in (("archive", np.savez), ("compressed", np.savez_compressed)):
        stream = io.BytesIO()
        save(stream, w=matrix, b=held["columns"])
        write("read_arrays", name, b"z" + stream.getvalue())


def distributed() -> None:
    import torch.distributed.checkpoint as dcp

    for kind, state in {
        "plain": {"w": torch.arange(6.0).reshape(2, 3), "model": {"v": torch.ones(4)}},
        "megatron": {"decoder.layers.mlp.weight": torch.arange(12.0).reshape(2, 2, 3), "decoder.norm": torch.ones(3)},
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dcp.save(state, checkpoint_id=folder)
            write("read_dcp", kind, kind[:1].encode() + (Path(folder) / ".metadata").read_bytes())
            if kind == "plain":
                FIXED.mkdir(parents=True, exist_ok=True)
                (FIXED / "values.distcp").write_bytes((Path(folder) / "__0_0.distcp").read_bytes())
    for kind in ("sharded", "local"):
        write("read_fsdp", kind, b"o" + pickled(DATA / "checkpoints" / "fsdp1" / kind / "model_world_size_2_rank_1.pt"))
    whole = (DATA / "checkpoints" / "fsdp1" / "sharded" / "model_world_size_2_rank_0.pt").read_bytes()
    (FIXED / "rank.pt").write_bytes(whole)
    write("read_fsdp", "dtensor", b"b" + pickled(io.BytesIO(saved(dtensors()))))


def dtensors() -> dict[str, Any]:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    matrix = torch.arange(8.0).reshape(4, 2)
    return {"a": distribute_tensor(matrix, mesh, [Shard(0)]), "b": distribute_tensor(matrix, mesh, [Replicate()])}


def deepspeed() -> None:
    for kind in ("zero1", "zero2-frozen", "bf16-optimizer"):
        steps = DATA / "checkpoints" / "deepspeed" / kind / "global_step3"
        first = pickled(steps / "mp_rank_00_model_states.pt")
        write("read_deepspeed", kind, pair(first, pickled(steps / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")))


def tensor_parallel() -> None:
    names = {"wq": (2, 4), "wk": (2, 4), "wv": (2, 4), "wo": (4, 2), "w1": (3, 4), "w2": (4, 3), "w3": (3, 4)}
    state = {f"layers.0.{'attention' if name[1] in 'qkvo' else 'feed_forward'}.{name}.weight": torch.zeros(s) for name, s in names.items()}
    state |= {"norm.weight": torch.zeros(4), "tok_embeddings.weight": torch.zeros(6, 2), "output.weight": torch.zeros(3, 4)}
    small = {"norm.weight": torch.zeros(4), "output.weight": torch.zeros(3, 4)}
    params = json.dumps({"dim": 4, "n_heads": 2, "n_kv_heads": 2, "vocab_size": 6}).encode()
    for name, content in (("whole", state), ("small", small)):
        write("read_tensor_parallel", name, pair(params, pickled(io.BytesIO(saved(content)))))


def gguf_files() -> None:
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        for kind in ("llama", "gemma", "qwen3moe"):
            path = Path(folder) / kind
            writer = gguf.GGUFWriter(path, kind)
            if kind == "llama":
                writer.add_head_count(2)
                writer.add_token_list(["a", "b"])
            writer.add_tensor("token_embd.weight", np.arange(8, dtype=np.float32).reshape(2, 4))
            writer.add_tensor("blk.0.attn_q.weight", np.ones((4, 4), np.float16))
            writer.add_tensor("blk.0.attn_norm.weight", np.ones(4, np.float32))
            if kind == "qwen3moe":
                writer.add_tensor("blk.0.ffn_up_exps.weight", np.zeros((2, 2, 2), np.float32))
            quantised = gguf.quants.quantize(np.ones((1, 32), np.float32), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor("blk.0.ffn_down.weight", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            write("read_gguf", kind, path.read_bytes())


def texts() -> None:
    write("read_safetensors", "file", b"f" + BASE)
    write("read_safetensors", "header", b"h" + ADAPTER[8 : 8 + int.from_bytes(ADAPTER[:8], "little")])
    opaque = {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}, "__metadata__": {"format": "pt"}}
    write("read_safetensors", "opaque", b"h" + json.dumps(opaque).encode())
    for name in ("plain", "rslora_pat", "tokens", "dora", "tokens_tied"):
        config = json.loads((DATA / "adapters" / name / "adapter_config.json").read_bytes())
        write("read_adapter", name, json.dumps({key: value for key, value in config.items() if value} | {"r": 2}).encode())
    small = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": True, "init_lora_weights": True, "trainable_token_indices": [1],
        "rank_pattern": {"layers.(0|1).q_proj": 2, "q.*": 2}, "alpha_pattern": {r"^.*\.1\..*": 8, "layers.0.q_proj": 1.5},
    }  # fmt: skip
    write("read_adapter", "patterns", json.dumps(small).encode())
    for folder in sorted((DATA / "quantised").iterdir()):
        if folder.is_dir():
            write("read_quantised", folder.name, quantised(folder))
    index = {"weight_map": {f"layers.{n}.w": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}}
    index["weight_map"] |= {f"b{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    settings = {"architectures": ["A_ForCausalLM"], "tie_word_embeddings": True, "text_config": {"dtype": "bfloat16"}, "vocab_size": 3}
    write("read_folder", "folder", pair(json.dumps(index).encode(), json.dumps(settings).encode()))
    write("side_files", "config", b"u" + json.dumps(settings).encode())
    write("side_files", "numbers", b'n{"a": [1, -2.5e-3, NaN, Infinity, true, null, 12345678901234567890], "\\u00e9\\ud83d\\ude00": "\\n"}')
    layers = {f"model.layers.{n}.{m}.weight": [4, 2] for n in (0, 1) for m in ("q_proj", "mlp.up_proj")}
    wrapped = {name.replace("model.", "model.language_model."): shape for name, shape in layers.items()}
    fused = {"model.layers.0.self_attn.qkv_proj.weight": [6, 2], "lm_head.weight": [5, 2], "model.embed_tokens.weight": [5, 2]}
    parts = {f"model.layers.0.self_attn.{m}_proj.weight": [2, 2] for m in "qkv"} | {"model.embed_tokens.weight": [4, 2]}
    experts = {f"layers.0.experts.{n}.{w}.weight": [2, 4] for n in (0, 1) for w in ("w1", "w3")}
    for name, base, tuned in (
        ("wrapped", layers, wrapped), ("fused", fused, parts), ("experts", experts, {"layers.0.experts.gate_up_proj": [2, 4, 4]}),
    ):  # fmt: skip
        write("match", name, json.dumps({"base": base, "tuned": tuned}).encode())
    for name, text in {
        "name": "layers.0.q_proj\nmodel.layers.0.q_proj", "ways": "layers\\.(0|1)\\.(q|v)_proj\nlayers.1.v_proj",
        "class": "^model.*[0-9]{1,2}\\.\\w+$\nmodel.layers.12.fc", "bad": "(a\nb.(a",
    }.items():  # fmt: skip
        write("module_patterns", name, text.encode())
    for name, text in {
        "s3": "s3://bucket/folder/x.safetensors?version=3", "hub": "org/name@main", "http": "https://user:secret@host:80/a%20b#c",
        "file": "file:///tmp/x", "cut": "s3:/bucket", "steps": "run/checkpoint-10/step_2",
    }.items():  # fmt: skip
        write("location", name, text.encode())


def quantised(folder: Path) -> bytes:
    """Describe the first quantised weight of a checkpoint."""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    first = sorted(header)[0].rpartition(".")[0].rpartition(".weight")[0] or sorted(header)[0].rpartition(".")[0]
    tensors: dict[str, Any] = {}
    for name, entry in list(header.items())[:40]:
        if name.startswith(first) and len(tensors) < 10:
            tensors[name] = [entry["dtype"], *entry["shape"]]
            if "quant_state" in name:
                begin, end = entry["data_offsets"]
                tensors[name] = json.loads(data[8 + size + begin : 8 + size + end])
    config = json.loads((folder / "config.json").read_bytes()) if (folder / "config.json").exists() else {}
    return json.dumps({"config": config, "tensors": tensors}).encode()


if __name__ == "__main__":
    pickles()
    arrays()
    distributed()
    deepspeed()
    tensor_parallel()
    gguf_files()
    texts()
    assert header_and_zeros({})
