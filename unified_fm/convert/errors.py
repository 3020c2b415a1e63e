"""The two errors of this package: a file that is not what it says, names that do not fit."""


class CheckpointFormatError(ValueError):
    """A file cannot be read safely: malformed, truncated, hostile, or of an unsupported kind."""


class ConversionError(ValueError):
    """A well-formed file does not fit the table: missing or unexpected names, wrong shapes."""
