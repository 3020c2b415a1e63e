"""Writes the table of docs/pods.md anew, of the plans in docs/plans.

tools/env.sh python tools/pods_table.py
"""

import pathlib
import re

from unified_fm import files
from unified_fm.planning import text

ROOT = pathlib.Path(__file__).parents[1]
_TABLE = re.compile(r"(<!-- plans: .*? -->\n).*?(<!-- end of plans -->)", re.DOTALL)


def main() -> None:
    """Reads the plans in the order of their names."""
    plans = [path.read_text() for path in sorted((ROOT / "docs" / "plans").glob("*.json"))]
    page = ROOT / "docs" / "pods.md"
    made = text.table(plans)
    written = _TABLE.sub(lambda old: f"{old[1]}{made}\n{old[2]}", page.read_text())
    files.write_whole(page, written)


if __name__ == "__main__":
    main()
