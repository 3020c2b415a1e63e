"""The same as `unified-fm bench`: see unified_fm/commands/bench.py."""

import sys

from unified_fm.commands.bench import main
from unified_fm.runtime import huge_pages

if __name__ == "__main__":
    huge_pages.restart()
    sys.exit(main())
