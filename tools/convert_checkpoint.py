"""The same as `unified-fm convert`: see unified_fm/commands/convert.py."""

import sys

from unified_fm.commands.convert import main

if __name__ == "__main__":
    sys.exit(main())
