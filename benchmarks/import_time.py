"""Time of `import dynamics` compared with `import numpy`, each in fresh interpreters.

python benchmarks/import_time.py [--rounds 15]

The time of an interpreter that imports nothing is subtracted. Rounds alternate between the contestants, so that noise of the machine
affects all of them; times are medians. The first round, which reads files from disk, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROGRAMS = {"nothing": "pass", "dynamics": "import dynamics", "numpy": "import numpy"}


def seconds(program: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rounds = [{name: seconds(program) for name, program in PROGRAMS.items()} for _ in range(options.rounds + 1)][1:]
    bare, ours, peer = (1000 * statistics.median(times[name] for times in rounds) for name in PROGRAMS)
    share = (ours - bare) / (peer - bare)
    print(f"import dynamics {ours - bare:5.1f} ms, numpy {peer - bare:5.1f} ms: {share:.2f} of it; an interpreter by itself {bare:.1f} ms")


if __name__ == "__main__":
    main()
