"""Check what is installed: .ci/audit.py PYTHON.

Everything in the environment of PYTHON must be of a locked version, and no locked version may have a known vulnerability. Where the service
that knows vulnerabilities cannot be reached, one line says so, and nothing fails.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
#: what is installed without the locks: the package itself, pip, and the libraries of torch's build for CUDA
UNLOCKED = re.compile(r"(training-dynamics$|pip$|(nvidia|cuda|triton)\b)")
LISTED = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions() if d.name]"


def normalized(name: str) -> str:
    """Return the one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> set[tuple[str, str]]:
    """Return names and versions of all locks."""
    texts = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt")))
    return {(normalized(name), version) for name, version in re.findall(r"^([\w.-]+)==([^ \n]+)", texts, re.MULTILINE)}


def installed(python: str) -> set[tuple[str, str]]:
    """Return names and public versions of all packages in an environment."""
    lines = subprocess.run([python, "-c", LISTED], capture_output=True, text=True, check=True).stdout.splitlines()
    return {(normalized(name), version.partition("+")[0]) for name, version in (line.split() for line in lines)}


def audited(lock: Path) -> tuple[list[str], int, int, str]:
    """Return the vulnerabilities of a lock, the numbers of packages with and without an answer, and why there is none."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format", "json", "--timeout", "15"]
    try:
        done = subprocess.run([*command, "--requirement", lock], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return [], 0, 0, "it did not answer in 300 s"
    if not done.stdout.startswith("{"):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        if not re.search(r"Connection|Timeout|Resolution|ServiceError|HTTPError", done.stderr):
            raise SystemExit(f"pip-audit failed: {last}")
        return [], 0, 0, last[:200]
    packages = json.loads(done.stdout)["dependencies"]
    found = [f"{package['name']} {package.get('version')}: {each['id']}" for package in packages for each in package.get("vulns", ())]
    missing = sum("skip_reason" in package for package in packages)
    return found, len(packages) - missing, missing, ""


def main(python: str) -> None:
    """Print what is wrong, and exit with 1 if something is."""
    others = sorted(name for name in installed(python) - locked() if not UNLOCKED.match(name[0]))
    if others:
        raise SystemExit(f"installed, but not locked: {', '.join(' '.join(other) for other in others)}")
    vulnerabilities: list[str] = []
    known = unknown = 0
    for lock in sorted(FOLDER.glob("*.txt")):
        found, answered, missing, error = audited(lock)
        if error:
            print(f"not checked for known vulnerabilities, as the service cannot be reached: {error}")
            return
        vulnerabilities, known, unknown = [*vulnerabilities, *found], known + answered, unknown + missing
    if not known:
        print(f"not checked for known vulnerabilities, as the service knows none of the {unknown} packages: it is not served here")
    elif not vulnerabilities:
        print(f"{known} packages have no known vulnerabilities" + (f"; the service does not know {unknown}" if unknown else ""))
    if vulnerabilities:
        raise SystemExit("known vulnerabilities: " + "; ".join(sorted(set(vulnerabilities))))


if __name__ == "__main__":
    main(sys.argv[1])
