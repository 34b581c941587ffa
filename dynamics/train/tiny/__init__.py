"""The embedded model: a small base model, trained on first use and cached."""

from dynamics.train.tiny.model import Recipe, find, folder, make
from dynamics.train.tiny.pretraining import example
from dynamics.train.tiny.tokenizer import build_tokenizer

__all__ = ["Recipe", "build_tokenizer", "example", "find", "folder", "make"]
