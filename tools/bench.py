"""The same as `unified-fm bench`: see unified_fm/commands/bench.py."""

import sys

from unified_fm.commands.bench import main

if __name__ == "__main__":
    sys.exit(main())
