"""What the sources of one official file of rows, with images beside it, have in common."""

import pathlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from unified_fm.data import official
from unified_fm.data.sources import base


class OneFile(base.Source):
    """Random access to the rows of a file.

    Attributes:
        form: the name of the source, for messages.
    """

    form: ClassVar[str]

    def __init__(self, argument: str):
        """Reads the file.

        Raises:
            ValueError: another layout.
            FileNotFoundError: no such file.
        """
        parts = official.argument(argument, self.form)
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        self._rows = self.rows_of(parts.file)

    @abstractmethod
    def rows_of(self, file: pathlib.Path) -> Sequence[Any]:
        """The rows, in the order of the file."""

    def __len__(self) -> int:
        return len(self._rows)
