"""The same as `unified-fm data`: see unified_fm/commands/data.py."""

import sys

from unified_fm.commands.data import main

if __name__ == "__main__":
    sys.exit(main())
