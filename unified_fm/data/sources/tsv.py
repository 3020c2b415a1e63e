"""`tsv:FILE`: as `csv:`, with tabs between the cells of a row.

tsv:my/pairs.tsv
tsv:my/train.tsv?quotes=none&text=title     a quote is an ordinary character
"""

from unified_fm.data.sources._delimited import Delimited


class Source(Delimited):
    """Random access to the rows of one or several files; see `csv` for the format."""

    form = "tsv"
    delimiter = "\t"
