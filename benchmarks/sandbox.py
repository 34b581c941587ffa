"""Programs a second in the sandbox, against a fresh interpreter for each program; both on all cores, in one run.

python benchmarks/sandbox.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dynamics.io.threads import cores
from dynamics.train.sandbox import Job, Sandbox

MANY, FEW = 2000, 100


def program(number: int) -> str:
    return f"def f(x):\n    return sorted(str(x * {number}))"


def fresh(number: int) -> None:
    subprocess.run([sys.executable, "-S", "-c", f"{program(number)}\nprint(f(7))"], check=True, capture_output=True)


def main() -> None:
    jobs = [Job(program(number), [(7,)]) for number in range(MANY)]
    with Sandbox() as sandbox, ThreadPoolExecutor(cores()) as pool:
        sandbox.run_all_deterministic(jobs[:20])
        for _ in range(3):
            begin = time.perf_counter()
            assert all(result.values for result in sandbox.run_all(jobs))
            confined = MANY / (time.perf_counter() - begin)
            begin = time.perf_counter()
            list(pool.map(fresh, range(FEW)))
            interpreters = FEW / (time.perf_counter() - begin)
            ratio = confined / interpreters
            print(f"{confined:,.0f} programs/s confined ({sandbox.confinement}), {ratio:.1f} x a fresh interpreter each")


if __name__ == "__main__":
    main()
