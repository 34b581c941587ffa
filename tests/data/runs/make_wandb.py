"""Write a small output directory of a Trainer that logged to Weights & Biases, offline, for the tests of its reader.

    python tests/data/runs/make_wandb.py FOLDER      # writes FOLDER/trainer_wandb; needs FOLDER/trl_base

Written with wandb 0.31 and transformers 5.23, on a CPU. The run saves no checkpoints, so that W&B's file is the only source of metrics.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": "trainer_wandb", "WANDB_PROJECT": "tests"}
import torch
import wandb
from make_trl import BASE, TEXTS, common, strip, tokenizer
from transformers import LlamaForCausalLM, Trainer, TrainingArguments


def main() -> None:
    """Train, and remove what W&B says of the machine."""
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    folder = Path("trainer_wandb")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    encoded = [tokenizer()(text, padding="max_length", max_length=8) for text in TEXTS]
    rows = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": row["input_ids"]} for row in encoded]
    quiet = wandb.Settings(host="machine", disable_git=True, save_code=False, console="off", x_disable_stats=True, x_disable_meta=True)
    wandb.init(settings=quiet, name="sums")
    settings = TrainingArguments(
        **common("trainer_wandb", report_to=["wandb"], max_steps=6, save_strategy="no", eval_strategy="steps", eval_steps=3)
    )
    trainer = Trainer(LlamaForCausalLM.from_pretrained(BASE), args=settings, train_dataset=rows, eval_dataset=rows[:4])
    trainer.train()
    trainer.save_model()
    wandb.finish()
    strip(folder)
    for path in (folder / "wandb").iterdir():
        if path.is_symlink():
            path.unlink()
    for path in folder.glob("wandb/*/*"):
        if path.is_dir():
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
