"""What the small models that are trained here have in common: the Llama, batches with loss weights, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

if TYPE_CHECKING:
    from torch import Tensor


def small_llama(sizes: Any, tokenizer: Any, vocabulary: int, attention: str) -> Any:
    """Return an untrained Llama with tied embeddings for 512 positions; its weights depend on torch's random state.

    Parameters
    ----------
    sizes : recipe with ``hidden``, ``layers``, ``heads``, ``intermediate`` and ``initializer_range``.
    tokenizer : whose tokens for padding and for the end are used.
    vocabulary : number of rows of the embedding.
    attention : implementation in transformers, ``eager`` or ``sdpa``.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.intermediate,
        initializer_range=sizes.initializer_range,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config)


def padded_rows(
    rows: Sequence[tuple[list[int], int]], prompt_weight: float, width: int
) -> tuple[Int[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """Return token ids and loss weights of a batch; padding, on the right, has weight 0.

    Parameters
    ----------
    rows : token ids of an example, and the number of those that are its prompt.
    prompt_weight : of the tokens of prompts; those of completions have 1.
    width : of the batch.
    """
    import torch

    ids, weights = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width)
    for index, (tokens, prompt_length) in enumerate(rows):
        ids[index, : len(tokens)] = torch.tensor(tokens)
        weights[index, :prompt_length] = prompt_weight
        weights[index, prompt_length : len(tokens)] = 1.0
    return ids, weights


def completion_loss(model: Any, ids: Int[Tensor, "rows width"], weights: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """Return the mean loss of next tokens, weighted."""
    import torch

    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (loss * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
