"""Words of captions as the official evaluation splits them: Penn Treebank's rules, without Java.

The official pipeline runs Stanford's PTBTokenizer with `-preserveLines -lowerCase` and drops a list
of marks. With lower case brackets come out as `-lrb-`, which the list spells `-LRB-`: so they stay
as words, and runs of marks (`!!`) stay too, for the list has single ones.
"""

import re

# What is dropped, and runs of dots, which the tokenizer makes "...".
_DROPPED = {"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_SPELLED = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u00b4\x91\x92", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\x93\x94", '"'),
        **dict.fromkeys("\u2013\u2014\u2015\x96\x97", " -- "),  # dashes
        **dict.fromkeys("\u2026\x85", " ... "),
        "\u00a0": " ",
        "\u00a3": "#",  # pounds, which the treebank of the Wall Street Journal had as #
        "\u20ac": "$",
        "\u00bd": " 1/2",
        "\u00bc": " 1/4",
        "\u00be": " 3/4",
    }
)
_TWO_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "gimme": ("gim", "me"),
    "lemme": ("lem", "me"),
    "y'all": ("y'", "all"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
}
_ABBREVIATIONS = """
mr mrs ms dr prof st jr sr vs etc inc ltd co corp jan feb mar apr jun jul aug sep sept oct nov dec
ave blvd rd mt ft gen col lt sgt gov sen rep rev
"""
_ABBREVIATED = {f"{word}." for word in _ABBREVIATIONS.split()}

_WORD, _LETTER = r"[^\W_]", r"[^\W\d_]"
_TOKEN = re.compile(
    rf"""
    https?://\S+
    | \.\.+                                      # dots
    | (?:{_LETTER}\.)+{_LETTER}\b\.?             # u.s. a.m
    | (?<!\S)\.\d+                               # .5
    | \d+(?:/\d+)+{_WORD}* | \d+(?:[.,:]\d+)+    # 3/4 10:30 1,000 2.5
    | (?<!\w)'(?:n'|(?:\d\ds?|em|n|til|tis|twas)\b)     # '80s
    | [A-Z](?:&[A-Z])+(?!\w)                     # Q&A, but not b&w
    | {_WORD}+(?:[-/_]{_WORD}+|'{_LETTER}{_WORD}*|\.{_LETTER}+)*   # t-shirt cat/dog don't
    | ''|``|--+
    | [!?]+ | \*+ | \#+                          # runs are one word
    | \S
    """,
    re.VERBOSE,
)
# An ending, and what a hyphen joins to it: "bull's-eye" is "bull", "'s", "eye".
_ENDING = re.compile(r"(.+?)(n't|'(?:s|m|d|ll|re|ve))(?:-(.+))?")


def tokenize(caption: str) -> list[str]:
    """The words of a caption, in lower case, without the marks that are dropped."""
    text = " ".join(caption.translate(_SPELLED).split())
    words = [word for token in _tokens(text) for word in _parted(token)]
    return [word for word in words if word not in _DROPPED and word.strip(".-")]


def _tokens(text: str) -> list[str]:
    """Tokens, an abbreviation with its dot; any other dot is a token of its own."""
    found, end = [], 0
    for match in _TOKEN.finditer(text):
        token, start = match[0].lower(), match.start()
        rest = text[match.end() :].lstrip()
        if token == "." and start == end and found and _abbreviated(found[-1], rest):
            found[-1] += token
        else:
            found.append(token)
        end = match.end()
    return found


def _abbreviated(token: str, rest: str) -> bool:
    """Whether a dot belongs to the token; one letter at the very end has none of its own."""
    if token == "no":
        return rest[:1].isdigit()
    single = rest and re.fullmatch(_LETTER, token)
    return f"{token}." in _ABBREVIATED or bool(single)


def _parted(token: str) -> list[str]:
    """A token as the words that the treebank makes of it."""
    if token in _BRACKETS:
        return [_BRACKETS[token]]
    if token in _TWO_WORDS:
        return list(_TWO_WORDS[token])
    if (match := _ENDING.fullmatch(token)) is None:
        return [token]
    return [*_parted(match[1]), match[2], *(_parted(match[3]) if match[3] else [])]
