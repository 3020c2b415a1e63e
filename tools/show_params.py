"""The same as `unified-fm show params`: see unified_fm/commands/show.py."""

import sys

from unified_fm.commands.show import main

if __name__ == "__main__":
    sys.exit(main(["params", *sys.argv[1:]]))
