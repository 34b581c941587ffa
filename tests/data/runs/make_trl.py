"""Write small output directories of TRL and transformers, for the tests of their reader.

    python tests/data/runs/make_trl.py FOLDER [NAME ...]      # writes FOLDER/trl_base, FOLDER/trl_sft, FOLDER/trl_grpo, ...

Written with TRL 1.16, transformers 5.23, peft 0.21 and tensorboard 2.21, on a CPU. What is large and not read is removed afterwards: the
states of optimizers and of random numbers, and tokenizers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed

BASE = "trl_base"
#: files of a checkpoint that are large, and that no reader of runs reads
UNREAD = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "scaler.pt",
    "chat_template.jinja",
)
TEXTS = [f"{a}+{b}={a + b}" for a in range(5) for b in range(5)]


def write_base(folder: Path) -> None:
    """Write a Llama of 2 layers, and a tokenizer that makes a token of each character."""
    characters = ["<pad>", "<s>", "</s>", "?", *"0123456789+-=*/()., abcdef"]
    words = Tokenizer(models.WordLevel({character: index for index, character in enumerate(characters[:32])}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="?")
    set_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def common(folder: str, **others: Any) -> dict[str, Any]:
    """Return the settings that all runs share; a run saves at step 5 and 10, and at its end."""
    return {
        "output_dir": folder,
        "max_steps": 12,
        "save_steps": 5,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": [],
        "seed": 7,
        "disable_tqdm": True,
        **others,
    }


def trl_sft() -> None:
    """Write a run of SFT in bfloat16 by autocast, with held-out texts, event files and a final model."""
    from trl import SFTConfig, SFTTrainer

    os.environ["TENSORBOARD_LOGGING_DIR"] = "trl_sft/logs"
    texts = Dataset.from_dict({"text": TEXTS})
    settings = SFTConfig(
        **common("trl_sft", report_to=["tensorboard"], bf16=True, eval_strategy="steps", eval_steps=4, max_length=16, save_steps=4)
    )
    trainer = SFTTrainer(BASE, args=settings, train_dataset=texts, eval_dataset=texts.select(range(4)))
    trainer.train()
    trainer.save_model()
    trainer.save_state()


def trl_grpo() -> None:
    """Write a run of GRPO whose reward is the share of digits, with its completions."""
    from trl import GRPOConfig, GRPOTrainer

    def digits(completions: list[str], **_: Any) -> list[float]:
        return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]

    settings = GRPOConfig(
        **common(
            "trl_grpo",
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            log_completions=True,
            bf16=False,
            beta=0.04,
            temperature=0.9,
            learning_rate=3e-3,
        )
    )
    prompts = Dataset.from_dict({"prompt": [text.partition("=")[0] + "=" for text in TEXTS]})
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
    GRPOTrainer(model, reward_funcs=digits, args=settings, train_dataset=prompts, processing_class=tokenizer()).train()


def trl_dpo() -> None:
    """Write a run of DPO without checkpoints before the end."""
    from trl import DPOConfig, DPOTrainer

    pairs = Dataset.from_dict(
        {
            "prompt": [text.partition("=")[0] + "=" for text in TEXTS],
            "chosen": [text.partition("=")[2] for text in TEXTS],
            "rejected": ["a"] * len(TEXTS),
        }
    )
    settings = DPOConfig(**common("trl_dpo", max_steps=4, bf16=False, beta=0.2))
    DPOTrainer(BASE, args=settings, train_dataset=pairs, processing_class=tokenizer()).train()


def trl_lora() -> None:
    """Write a run of SFT with a LoRA adapter."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    adapter = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    settings = SFTConfig(**common("trl_lora", bf16=False, max_length=16))
    trainer = SFTTrainer(BASE, args=settings, train_dataset=Dataset.from_dict({"text": TEXTS}), peft_config=adapter)
    trainer.train()
    trainer.save_model()


def trainer() -> None:
    """Write a run of a plain Trainer that was stopped at step 8, went on from step 5, and has event files of both parts."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = "trainer/logs"
    encoded = [tokenizer()(text, padding="max_length", max_length=8) for text in TEXTS]
    rows = [{"input_ids": row["input_ids"], "attention_mask": row["attention_mask"], "labels": row["input_ids"]} for row in encoded]
    for last, resume in ((8, None), (12, "trainer/checkpoint-5")):
        settings = TrainingArguments(**common("trainer", report_to=["tensorboard"], max_steps=last))
        model = LlamaForCausalLM.from_pretrained(BASE)
        run = Trainer(model, args=settings, train_dataset=rows)
        run.train(resume_from_checkpoint=resume)
    shutil.rmtree("trainer/checkpoint-8")


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of the base."""
    return PreTrainedTokenizerFast.from_pretrained(BASE)


def strip(folder: Path) -> None:
    """Remove what is large and not read, and shorten the names of event files, which name the machine."""
    for file in sorted(folder.rglob("*")):
        if file.name in UNREAD and folder.name != BASE:
            file.unlink()
        elif file.name.startswith("events.out.tfevents."):
            time = file.name.split(".")[3]
            file.rename(file.with_name(f"events.out.tfevents.{time}.machine.1.0"))


def main() -> None:
    """Write the runs that are named, or all."""
    runs = {run.__name__: run for run in (trl_sft, trl_grpo, trl_dpo, trl_lora, trainer)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(runs)}; all if none is given")
    arguments = parser.parse_args(sys.argv[1:])
    os.chdir(arguments.folder)  # so that settings hold no path of this machine
    torch.set_num_threads(1)
    if not Path(BASE).exists():
        write_base(Path(BASE))
    for name in arguments.name or runs:
        shutil.rmtree(name, ignore_errors=True)
        runs[name]()
        strip(Path(name))


if __name__ == "__main__":
    main()
