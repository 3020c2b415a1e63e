"""The XLA flags of a process that has one device and compiles as the tests' own process does."""

import os

FLAGS = " ".join(
    flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag
)
