"""Pre-training of the laboratory's base: a small Llama, Muon for its matrices and AdamW for the rest, on random examples.

The weights are a function of the recipe, on one machine to the bit. A run that was killed goes on from its last state and ends with the
same weights as one that was not.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int

from dynamics.errors import InputError
from dynamics.extras import optional_import
from dynamics.io.atomic import replacing
from dynamics.io.folders import save_folder
from dynamics.train.lab.examples import MIX, PRACTICE, PRACTICE_RATES, Rates, example
from dynamics.train.lab.tokenizer import TOKENS, VOCABULARY, build_tokenizer
from dynamics.train.llama import completion_loss, padded_rows, small_llama
from dynamics.train.rng import stream

if TYPE_CHECKING:
    from torch import Tensor

#: steps whose examples are drawn together and sorted by length, for little padding
POOL = 64
#: widths of batches are multiples of this
MULTIPLE = 8
#: longest example, in tokens; longer ones are not trained on
MAX_LENGTH = 128


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes
    ----------
    hidden, layers, heads, intermediate : sizes of the Llama.
    initializer_range : standard deviation of the initial weights.
    steps : number of optimizer steps.
    tokens : of a batch, padding included, at most.
    muon_rate, adam_rate : peak learning rates, of matrices by Muon, of embeddings and norms by AdamW.
    warmup, cooldown : steps in which these rise from 0 at the beginning, and fall linearly at the end; between them they are constant.
    final : fraction of these at the end.
    prompt_weight : loss weight of the tokens of prompts; those of completions have 1.
    clip : maximum L2 norm of the gradient.
    seed : of weights and examples.
    threads : number of torch threads; the order of sums depends on it.
    practice : pools of examples, some 35 steps each, that a base begins with: copying, and single operations without mistakes.
    rates : of mistakes in the other examples.
    version : of the code.
    """

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    initializer_range: float = 0.04
    steps: int = 7000
    tokens: int = 1536
    muon_rate: float = 0.007
    adam_rate: float = 1.5e-3
    final: float = 0.03
    warmup: int = 50
    cooldown: int = 5800
    prompt_weight: float = 0.0
    clip: float = 1.0
    seed: int = 0
    threads: int = 1
    practice: int = 10
    rates: Rates = field(default_factory=Rates)
    version: int = 2

    def hash(self) -> str:
        """Return a short text that changes with the settings and with what the code draws."""
        rng = stream(self.seed, "fingerprint")
        text = json.dumps(
            [asdict(self), TOKENS, MIX, PRACTICE, asdict(PRACTICE_RATES), [example(rng, self.rates) for _ in range(100)]], sort_keys=True
        )
        return sha256(text.encode()).hexdigest()[:16]


Row = tuple[list[int], int]


def batches(recipe: Recipe, tokenizer: Any, pool: int = 0, index: int = 0) -> Iterator[tuple[int, int, list[Row]]]:
    """Draw batches of examples of similar length.

    Parameters
    ----------
    recipe : sizes, seed and rates.
    tokenizer : of the laboratory.
    pool, index : the first batch.

    Yields
    ------
    Pool and index of the next batch; of this batch, token ids and length of the prompt of each example.
    """
    while True:
        found = _pool(recipe, pool, tokenizer)
        for number in range(index, len(found)):
            last = number + 1 == len(found)
            yield (pool + 1, 0, found[number]) if last else (pool, number + 1, found[number])
        pool, index = pool + 1, 0


def _pool(recipe: Recipe, number: int, tokenizer: Any) -> list[list[Row]]:
    rng = stream(recipe.seed, "laboratory", number)
    rates, mix = (PRACTICE_RATES, PRACTICE) if number < recipe.practice else (recipe.rates, MIX)
    drawn = [example(rng, rates, mix)[1:] for _ in range(POOL * recipe.tokens // 40)]
    prompts = tokenizer([prompt for prompt, _ in drawn], add_special_tokens=False)["input_ids"]
    answers = tokenizer([answer for _, answer in drawn], add_special_tokens=False)["input_ids"]
    rows = [(prompt + answer + [tokenizer.eos_token_id], len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
    rows = sorted((row for row in rows if len(row[0]) <= MAX_LENGTH), key=lambda row: len(row[0]))
    found: list[list[Row]] = [[]]
    for row in rows:
        if (len(found[-1]) + 1) * _width([row]) > recipe.tokens:
            found.append([])
        found[-1].append(row)
    return [found[index] for index in rng.permutation(len(found))]


def _width(rows: list[Row]) -> int:
    return -(-max(len(ids) for ids, _ in rows) // MULTIPLE) * MULTIPLE


def padded(rows: list[Row], prompt_weight: float) -> tuple[Int[Tensor, "rows length"], Float[Tensor, "rows length"]]:
    """Return token ids and loss weights of a batch; padding on the right has weight 0."""
    return padded_rows(rows, prompt_weight, _width(rows))


def build(recipe: Recipe) -> Any:
    """Return the untrained model of a recipe; the weights depend on its seed only."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return small_llama(recipe, build_tokenizer(), VOCABULARY, "sdpa")


def optimizers(model: Any, recipe: Recipe) -> list[Any]:
    """Return Muon for the matrices of the layers, and AdamW for embeddings and norms."""
    import torch

    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"torch {torch.__version__}: has no Muon, with which the base is trained; install torch 2.9 or later")
    matrices = [value for name, value in model.named_parameters() if value.ndim == 2 and "layers." in name]
    chosen = {id(value) for value in matrices}
    others = [value for value in model.parameters() if id(value) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate(recipe: Recipe, step: int) -> float:
    """Return the factor of the learning rates at a step."""
    left = max(recipe.final, min(1.0, (recipe.steps - step) / max(1, recipe.cooldown)))
    return left * min(1.0, (step + 1) / max(1, recipe.warmup))


def train(
    recipe: Recipe,
    out: Path,
    every: int = 500,
    on_progress: Callable[[int, float, int, float], None] | None = None,
    until: int | None = None,
) -> Path:
    """Make a base, or go on with one.

    Parameters
    ----------
    recipe : of the base.
    out : folder; ``base/`` in it becomes a Hugging Face folder, ``state.pt`` is what a run that was killed goes on from.
    every : steps after which both are written, and progress is told.
    on_progress : called with steps done, mean loss since the last call, tokens trained on, seconds in this process.
    until : stop after this step, as if killed then; None for the end.

    Returns
    -------
    The Hugging Face folder.

    Raises
    ------
    InputError : the folder holds the state of another recipe, or cannot be written.
    """
    with optional_import("making a base"):
        import torch
        import transformers  # noqa: F401

    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        return _train(recipe, Path(out), every, on_progress, recipe.steps if until is None else until)
    finally:
        torch.set_num_threads(threads)


def _train(recipe: Recipe, out: Path, every: int, on_progress: Callable[[int, float, int, float], None] | None, until: int) -> Path:
    import torch

    tokenizer, model = build_tokenizer(), build(recipe)
    both = optimizers(model, recipe)
    where = _resume(recipe, out, model, both)
    stream_of_batches = batches(recipe, tokenizer, where["pool"], where["index"])
    started, losses = time.perf_counter(), []
    while where["step"] < until:
        where["pool"], where["index"], rows = next(stream_of_batches)
        losses.append(_step(model, both, rows, recipe, where["step"]))
        where["step"] += 1
        where["tokens"] += sum(len(ids) - length for ids, length in rows)
        if where["step"] % every == 0 or where["step"] == until:
            _save(recipe, out, model, tokenizer, both, where)
            if on_progress:
                mean = float(torch.stack(losses).mean())
                on_progress(where["step"], mean, where["tokens"], time.perf_counter() - started)
            losses = []
    return out / "base"


def _step(model: Any, both: list[Any], rows: list[Row], recipe: Recipe, step: int) -> Tensor:
    """Make an optimizer step; return the loss."""
    import torch

    ids, weights = padded(rows, recipe.prompt_weight)
    loss = completion_loss(model, ids, weights)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer, peak in zip(both, (recipe.muon_rate, recipe.adam_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(recipe, step)
        optimizer.step()
        optimizer.zero_grad()
    return loss.detach()


def _resume(recipe: Recipe, out: Path, model: Any, both: list[Any]) -> dict[str, int]:
    """Load the state of an earlier run of the recipe, if there is one; return the position in the run."""
    import torch

    path = out / "state.pt"
    if not path.exists():
        return {"step": 0, "pool": 0, "index": 0, "tokens": 0}
    try:
        state = torch.load(path, weights_only=True)
        recorded, where = state["recipe"], dict(state["where"])
    except Exception as error:  # pickle and zip files fail in many ways
        raise InputError(f"{path}: cannot be read as the state of a base ({type(error).__name__}); remove it to start again") from None
    if recorded != recipe.hash():
        raise InputError(f"{path}: is the state of another recipe; give another folder, or remove it to start again")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(both, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return where


def _save(recipe: Recipe, out: Path, model: Any, tokenizer: Any, both: list[Any], where: dict[str, int]) -> None:
    import torch

    from dynamics.models import save_quietly

    def fill(path: Path) -> None:
        save_quietly(model, tokenizer, path)
        text = json.dumps({"recipe": asdict(recipe), "hash": recipe.hash(), **where}, indent=1)
        (path / "recipe.json").write_text(text + "\n", encoding="utf-8")

    save_folder(out / "base", fill, "give another folder")
    state = {
        "recipe": recipe.hash(),
        "where": where,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in both],
    }
    stored = io.BytesIO()  # without room on the disk, torch's own writer does not say so
    torch.save(state, stored)
    with replacing(out / "state.pt") as path:
        path.write_bytes(stored.getbuffer())
