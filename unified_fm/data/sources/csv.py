"""`csv:FILE`: a table, whose first row has the names of the fields.

    csv:my/pairs.csv                            image,text
                                                img/1.jpg,"a dog, asleep"
    csv:my/pets.csv?label=breed&classes=breeds.txt
    csv:export.csv?delimiter=;@pictures         cells end at ";", images lie below pictures

FILE may be a folder (its *.csv) or a pattern (`*`, `{00..12}`); all files have the same columns.
A cell in quotes may have commas and line breaks; `?quotes=none` makes quotes ordinary characters.
A quote in such a cell is written twice, or as \\" where `?escape=\\` says so (Spark, MySQL).
Taken as `image`: image, binary, img, file_name, filepath, image_path; as `text`: text, desc,
caption, captions, sentence; as `id`: id, image_id; `label`, `regions` (JSON). `?text=COLUMN` says
it otherwise. All other columns are passed on under their names; empty cells are left out.

A path is relative to its file, or to what stands behind the @. A label is a number; names are
numbered by `?classes=FILE`, a name in each line, so that every split numbers them alike. Columns
`regions`, `images`, `objects`, `answers` may be JSON lists. A row of another length is skipped. The
file is indexed once, by the 16 bytes a row that it takes in memory, and never loaded.
"""

from unified_fm.data.sources._delimited import Delimited


class Source(Delimited):
    """Random access to the rows of one or several files; see the module for the format."""

    form = "csv"
    delimiter = ","
