"""Known vulnerabilities of what the gateway is installed with: `python -m tests.audit`, part of `make lint`.

pip-audit asks the vulnerability database of the package index. Where no database answers, a line says so.
"""

import json
import subprocess
import sys
from pathlib import Path

_LOCK = Path(__file__).parents[1] / "requirements.txt"
_TIMEOUT_SECONDS = 60


def main() -> int:
    """Print what was found. Return 1 if a locked version has a known vulnerability, else 0."""
    found = vulnerabilities(_pip_audit())
    if isinstance(found, str):
        print(f"pip-audit: not checked, {found}")
        return 0
    for line in found:
        print(f"pip-audit: {line}")
    return 1 if found else 0


def vulnerabilities(report: str) -> list[str] | str:
    """A line for each known vulnerability, or why nothing can be said. `report` is pip-audit's JSON.

    pip-audit skips packages that the database does not know, and then calls the rest free of vulnerabilities.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except ValueError:
        return "no vulnerability database answers"
    found = [
        f"{package['name']} {package['version']} has {known['id']}: {_advice(known)}"
        for package in packages
        for known in package.get("vulns", [])
    ]
    skipped = sum("skip_reason" in package for package in packages)
    if skipped and not found:
        return f"the vulnerability database does not know {skipped} of {len(packages)} packages"
    return found


def _advice(known: dict[str, list[str]]) -> str:
    fixed = ", ".join(known["fix_versions"])
    return f"fixed in {fixed}; run `make lock`" if fixed else "there is no fixed version yet"


def _pip_audit() -> str:
    options = "--disable-pip --require-hashes --progress-spinner off --timeout 10 --format json"
    command = [sys.executable, "-m", "pip_audit", *options.split(), "--requirement", str(_LOCK)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
