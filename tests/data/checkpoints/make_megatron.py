"""Write ``megatron.zip``: two models saved with Megatron Core 0.16.1 (``torch_dist``) and torch 2.13.0 on a CPU, and their parameters.

Usage: ``python make_megatron.py [FILE]`` where Megatron Core is installed (``pip install megatron-core``).
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

# Megatron asks for the accelerator even if it saves from a CPU
torch.cuda.synchronize = lambda *_: None
torch.cuda.current_device = lambda: torch.device("cpu")

#: name -> ranks, which split the tensors
KINDS = {"dense": 2, "moe": 1}


def save(rank: int, port: int, kind: str, root: Path) -> None:
    """Build a model as one rank of a tensor-parallel group, and save it."""
    world = KINDS[kind]
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo")
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=world)
    experts = {"num_moe_experts": 2, "moe_router_topk": 2, "moe_grouped_gemm": False} if kind == "moe" else {}
    config = TransformerConfig(
        num_layers=2,
        hidden_size=8,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=12,
        gated_linear_unit=True,
        add_bias_linear=False,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
        **experts,
    )
    spec = get_gpt_layer_local_spec(num_experts=2 if experts else None)
    model = GPTModel(
        config, spec, vocab_size=16, max_sequence_length=8, position_embedding_type="rope", share_embeddings_and_output_weights=False
    )
    for number, (name, parameter) in enumerate(model.named_parameters()):
        split = "norm" not in name and "router" not in name  # these are the same on all ranks
        generator = torch.Generator().manual_seed(10 * number + (rank if split else 0))
        torch.nn.init.normal_(parameter, generator=generator)
    folder = root / kind
    folder.mkdir(exist_ok=True)
    torch.distributed.barrier()
    dist_checkpointing.save(model.sharded_state_dict(), str(folder))
    np.savez(root / f"{kind}-rank{rank}.npz", **{name: value.detach().numpy() for name, value in model.named_parameters()})
    torch.distributed.barrier()


def main(target: Path) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for kind, world in KINDS.items():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            ranks = [multiprocessing.get_context("fork").Process(target=save, args=(rank, port, kind, root)) for rank in range(world)]
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join()
                assert rank.exitcode == 0
        with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("megatron.zip"))
