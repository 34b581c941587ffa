"""Write the folders of ``deepspeed/`` with DeepSpeed 0.19.8 and torch 2.13.0 on a CPU, and what its ``zero_to_fp32`` makes of each.

Usage: ``python make_deepspeed.py [FOLDER]`` where DeepSpeed is installed (``DS_BUILD_OPS=0 pip install deepspeed``).
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import sys
from pathlib import Path

os.environ.update(DS_ACCELERATOR="cpu", DS_BUILD_OPS="0", OMP_NUM_THREADS="1")

import deepspeed
import deepspeed.comm.torch
import numpy as np
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # it would compile an extension

#: name -> (ranks, ZeRO stage, whether a matrix is frozen, further configuration)
KINDS = {
    "zero1": (2, 1, False, {}),
    "zero2-frozen": (3, 2, True, {}),
    "zero3-frozen": (3, 3, True, {"zero_optimization": {"stage3_param_persistence_threshold": 7}}),
    "bf16-optimizer": (2, 1, False, {"data_types": {"grad_accum_dtype": "fp32"}}),
}


class Model(torch.nn.Module):
    """A small model with a tied head and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(2)])
        self.norm = torch.nn.LayerNorm(6)
        self.lm_head = torch.nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        hidden = self.embed_tokens(tokens)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return self.lm_head(self.norm(hidden))


def train(rank: int, port: int, kind: str, folder: Path) -> None:
    """Take three steps as one rank, and save."""
    world, stage, frozen, more = KINDS[kind]
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = Model()
    model.layers[0].weight.requires_grad = not frozen
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": 0.1},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    config = {"train_micro_batch_size_per_gpu": 2, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True, **more}
    config["zero_optimization"] = {"stage": stage, **config.get("zero_optimization", {})}
    config["zero_force_ds_cpu_optimizer"] = False
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=1e-2), config=config)
    for step in range(3):
        tokens = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(2 * step + rank))
        engine.backward(torch.nn.functional.cross_entropy(engine(tokens).float().view(-1, 11), tokens.view(-1)))
        engine.step()
    engine.save_checkpoint(str(folder))
    torch.distributed.barrier()


def main(root: Path) -> None:
    """Write all folders."""
    for kind, (world, *_) in KINDS.items():
        folder = root / kind
        shutil.rmtree(folder, ignore_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = [multiprocessing.get_context("fork").Process(target=train, args=(rank, port, kind, folder)) for rank in range(world)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
            assert rank.exitcode == 0
        for script in folder.glob("*.py"):  # that DeepSpeed copies beside its files
            script.unlink()
        if kind != "bf16-optimizer":  # which zero_to_fp32 does not read
            expected = get_fp32_state_dict_from_zero_checkpoint(str(folder))
            np.savez(root / f"{kind}.npz", **{name: value.detach().float().numpy() for name, value in expected.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "deepspeed")
