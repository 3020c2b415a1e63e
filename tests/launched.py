"""The command `unified-fm`, as a module that a test can start."""

from unified_fm import cli

if __name__ == "__main__":
    cli.run()
