"""Write small output directories as axolotl and Unsloth leave them, for the tests of their reader.

    python tests/data/runs/make_from_source.py FOLDER      # writes FOLDER/axolotl and FOLDER/unsloth; needs FOLDER/trl_base

Neither runs on a CPU with these models. So TRL and transformers train, and what differs follows the sources of axolotl 0.19
(``axolotl/core/training_args.py``, ``axolotl/train.py``) and Unsloth 2026.10 (``unsloth/models/rl.py``): the class of the settings, how
they are pickled, and the model card.
"""

from __future__ import annotations

import copyreg
import os
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from make_trl import BASE, TEXTS, common, strip, tokenizer
from peft import LoraConfig
from transformers import LlamaForCausalLM, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

#: what axolotl puts below the comment of the model card, from ``setup_model_card``
BADGE = """[<img src="axolotl-badge-web.png" alt="Built with Axolotl" width="200" height="32"/>](https://github.com/axolotl-ai-cloud/axolotl)
<details><summary>See axolotl config</summary>

axolotl version: `0.19.0`
```yaml
base_model: trl_base
datasets:
  - path: sums
learning_rate: 0.001
```

</details><br>
"""


@dataclass
class AxolotlTrainingArguments(TrainingArguments):
    """The settings of axolotl, which has many more of them."""

    sample_packing: bool = False
    include_tkps: bool = True


class _Reconstructed(SFTConfig):
    """Settings of TRL as Unsloth pickles them, by ``copyreg._reconstructor``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg._reconstructor, (SFTConfig, object, None), {**self.__dict__, "unsloth_num_chunks": -1, "vllm_sampling_params": None}


def axolotl() -> None:
    """Write a run with the class of axolotl, its extra metrics, and its model card."""
    module = types.ModuleType("axolotl.core.training_args")
    module.AxolotlTrainingArguments = AxolotlTrainingArguments  # type: ignore[attr-defined]
    sys.modules |= {"axolotl": types.ModuleType("axolotl"), "axolotl.core": types.ModuleType("axolotl.core"), module.__name__: module}
    AxolotlTrainingArguments.__module__ = module.__name__
    encoded = [tokenizer()(text, padding="max_length", max_length=8) for text in TEXTS]
    rows = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": row["input_ids"]} for row in encoded]
    trainer = Trainer(
        LlamaForCausalLM.from_pretrained(BASE),
        args=AxolotlTrainingArguments(**common("axolotl", max_steps=4, save_steps=2)),
        train_dataset=rows,
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="other", finetuned_from=BASE)
    card = Path("axolotl/README.md")
    card.write_text(card.read_text().replace("-->\n", f"-->\n\n{BADGE}", 1))


def unsloth() -> None:
    """Write a run of LoRA whose settings are pickled as Unsloth does, and whose model card has its tag."""
    adapter = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = SFTConfig(**common("unsloth", max_steps=4, save_steps=2, bf16=False, max_length=16))
    settings.__class__ = _Reconstructed
    trainer = SFTTrainer(BASE, args=settings, train_dataset=Dataset.from_dict({"text": TEXTS}), peft_config=adapter)
    trainer.model.add_model_tags(["unsloth"])
    trainer.train()


def main() -> None:
    """Write both."""
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    for run in (axolotl, unsloth):
        shutil.rmtree(run.__name__, ignore_errors=True)
        run()
        strip(Path(run.__name__))


if __name__ == "__main__":
    main()
