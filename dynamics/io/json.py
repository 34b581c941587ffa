"""JSON documents with null where a number is NaN or infinite."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(document: Any) -> str:
    """JSON with null where a number is NaN or infinite."""
    return json.dumps(finite(document), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """The same document with None for every NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
