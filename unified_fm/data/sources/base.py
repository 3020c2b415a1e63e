"""What a source of examples is: the contract of `data/sources`."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol


class Source(Protocol):
    """Random access to examples; derive from it, and only the two abstract methods are left.

    A source is made of its argument, the part of its string behind the colon. An example is a dict.
    The library knows these fields; a source passes on whatever else its records have, for the
    user's own pipelines and evaluators:

    | field | what |
    | --- | --- |
    | `id` | number or string; by default the record's number |
    | `image` | encoded bytes, u8[H W 3], or a path |
    | `images` | a list of such |
    | `text` | a string, or a list of strings of which a stream draws one |
    | `regions` | a list of {"box": four numbers as `box_format` says, "text", "attributes"} |
    | `label` | class number; a score, where there are no classes |
    | `objects` | names of what the image shows, for the evaluator `imlm` |
    | `sentences` | one text or two, of `glue:` |
    | `question`, `answers` | a string, and the annotators' answers, a list, of `vqa:` |
    | `box`, `size` | x, y, width, height in pixels, and (width, height), of `refcoco:` |

    Attributes:
        problems: (reason, file) of what could not be opened.
        lost: about how many records were in those files.
        class_names: of `label`, by number; empty where there are none.
        origin: the string of the source that the records are taken from, where this one only
            chooses among them (a slice), and gives them the ids that they have there; "": they are
            its own.
    """

    problems: Sequence[tuple[str, str]] = ()
    lost: int = 0
    class_names: Sequence[str] = ()
    origin: str = ""

    @abstractmethod
    def __len__(self) -> int:
        """The number of records."""
        ...

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """The example of one record; raises `data.skips.Skip` if it cannot be read."""
        ...

    def place(self, index: int) -> str:
        """The file of a record and the place in it, for messages; "" where there is no file."""
        return ""
