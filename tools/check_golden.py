"""The same as `unified-fm golden`: see unified_fm/commands/golden.py."""

import sys

from unified_fm.commands.golden import main

if __name__ == "__main__":
    sys.exit(main())
