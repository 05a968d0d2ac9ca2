"""Is a security advisory known against a version that constraints.txt pins? pip-audit asks PyPI's advisory service.

Exit code 0: none is known against any pin. 1: some are, and are listed. 3: it is not known, since pip-audit or the
service could not be reached, or did not know a pin; with `--if-reachable` that is said, and exits with 0.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
LONGEST = 60  # seconds
COMMAND = ["pip-audit", "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", "--timeout=10"]


def answer() -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of every pin, or why it says nothing."""
    try:
        asked = subprocess.run([*COMMAND, f"--requirement={PINS}"], capture_output=True, text=True, timeout=LONGEST)
    except FileNotFoundError:
        return [], "pip-audit is not installed"
    except subprocess.TimeoutExpired:
        return [], f"no answer within {LONGEST} s"
    try:
        return json.loads(asked.stdout)["dependencies"], ""
    except (ValueError, KeyError, TypeError):  # no JSON: it ended with an error, as it does without the network
        return [], (asked.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]


def main() -> int:
    """Print what is known, and return the exit code."""
    pins = {line.partition("==")[0] for line in PINS.read_text(encoding="utf-8").split()}
    found, why = answer()
    known = {dependency["name"]: dependency["vulns"] for dependency in found if "vulns" in dependency}
    for name, advisories in sorted(known.items()):
        for advisory in advisories:
            fixed = ", ".join(advisory.get("fix_versions", [])) or "no version yet"
            print(f"{name}: {advisory['id']}; fixed in {fixed}")
    if any(known.values()):
        return 1
    if len(known) < len(pins):
        print(f"NOT AUDITED: {len(pins) - len(known)} of {len(pins)} pins ({why or 'unknown to the advisory service'})")
        return 0 if "--if-reachable" in sys.argv else 3
    print(f"no advisory is known against any of the {len(pins)} pins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
