"""Write a small output directory of LLaMA-Factory, for the tests of its reader.

    python tests/data/runs/make_llamafactory.py FOLDER      # writes FOLDER/llamafactory and FOLDER/llamafactory_lora; needs FOLDER/trl_base

Written with LLaMA-Factory 0.9.5, transformers 5.6 and peft 0.18, on a CPU. The page of LLaMA-Factory writes ``training_args.yaml`` and
``llamaboard_config.yaml``; here its function writes the first, and the second has the entries of its page. Where torchaudio is not
installed, an empty module of that name will do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["DISABLE_VERSION_CHECK"] = "1"
import torch
from llamafactory.train.tuner import run_exp
from llamafactory.webui.common import save_args, save_cmd
from make_trl import BASE, strip


def settings(folder: str, data: Path, **others: Any) -> dict[str, Any]:
    """Return the settings of a run that saves at steps 2, 4 and 6."""
    return {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": BASE,
        "dataset": "sums",
        "dataset_dir": str(data),
        "template": "empty",
        "cutoff_len": 32,
        "output_dir": folder,
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "report_to": "none",
        "use_cpu": True,
        "overwrite_cache": True,
        "plot_loss": False,
        **others,
    }


def run(data: Path, arguments: dict[str, Any]) -> None:
    """Train, and write what the page writes, without the folder of the data, which is that of this machine."""
    folder = Path(arguments["output_dir"])
    shutil.rmtree(folder, ignore_errors=True)
    run_exp(dict(arguments))
    shown = {**arguments, "dataset_dir": "data"}
    save_cmd(shown)
    page = {
        "top.model_name": "Custom",
        "top.finetuning_type": arguments["finetuning_type"],
        "train.training_stage": "Supervised Fine-Tuning",
    }
    save_args(str(folder / "llamaboard_config.yaml"), page)
    strip(folder)


def main() -> None:
    """Write both runs."""
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        rows = [{"instruction": f"{a}+{b}=", "input": "", "output": str(a + b)} for a in range(5) for b in range(5)]
        (data / "sums.json").write_text(json.dumps(rows))
        (data / "dataset_info.json").write_text(json.dumps({"sums": {"file_name": "sums.json"}}))
        run(data, settings("llamafactory", data, finetuning_type="full", val_size=0.2, eval_strategy="steps", eval_steps=3, bf16=True))
        run(data, settings("llamafactory_lora", data, finetuning_type="lora", lora_rank=2, lora_target="q_proj,v_proj"))


if __name__ == "__main__":
    main()
