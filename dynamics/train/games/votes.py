"""The answer that most samples of a group give, which can pay in place of the right one.

R-Zero and others pay a solver for agreeing with the majority of its own answers. That measures how sure it is, not whether it is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def majority(keys: Sequence[str | None]) -> str | None:
    """Return the key that is there most often; None if two are there equally often, or none is there.

    Parameters
    ----------
    keys : of the answers of a group; equal answers have equal keys, and an answer that cannot be read has None, which never wins.

    Notes
    -----
    It is a plurality: two of eight answers win if the other six differ. With one answer in the group it always wins.
    """
    found = Counter(key for key in keys if key is not None).most_common(2)
    if not found or (len(found) == 2 and found[0][1] == found[1][1]):
        return None
    return found[0][0]
