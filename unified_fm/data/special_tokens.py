"""The names that vocabularies give to their special tokens: who has which, and what they mean."""

import dataclasses

import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specials:
    """The special tokens of a family of vocabularies.

    Attributes:
        family: whose names these are.
        cls, sep: what a text begins and ends with.
        pad: what fills up a row.
        unk: what stands for what cannot be spelt.
        mask: what hides a word; "" where there is no such token.
        segments: whether the texts of a pair are told apart by their segments, with one sep
            between them; otherwise by two seps.
    """

    family: str
    cls: str
    sep: str
    pad: str
    unk: str
    mask: str = ""
    segments: bool = False

    @property
    def names(self) -> dict[str, str]:
        """{role: token} of those that there are."""
        found = {role: getattr(self, role) for role in ("pad", "unk", "cls", "sep", "mask")}
        return {role: name for role, name in found.items() if name}

    def of(self, inner: tokenizers.Tokenizer) -> bool:
        """Whether the vocabulary has all of them."""
        return all(inner.token_to_id(name) is not None for name in self.names.values())


_BRACKETS = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "segments": True}
BERT = Specials(family="BERT", pad="[PAD]", unk="[UNK]", **_BRACKETS)
ROBERTA = Specials(family="RoBERTa", cls="<s>", pad="<pad>", sep="</s>", unk="<unk>", mask="<mask>")
ALBERT = Specials(family="ALBERT", pad="<pad>", unk="<unk>", **_BRACKETS)
_CLIP_END = "<|endoftext|>"  # it also fills up, as Hugging Face has it: what follows is not read
CLIP = Specials(family="CLIP", cls="<|startoftext|>", sep=_CLIP_END, pad=_CLIP_END, unk=_CLIP_END)
FAMILIES = (BERT, ROBERTA, ALBERT, CLIP)


def of(inner: tokenizers.Tokenizer) -> Specials:
    """The family whose special tokens a vocabulary has.

    Raises:
        ValueError: it has all of none.
    """
    for family in FAMILIES:
        if family.of(inner):
            return family
    vocabulary = inner.get_vocab(with_added_tokens=True)
    lacking = []
    for family in FAMILIES:
        names = [name for name in dict.fromkeys(family.names.values()) if name not in vocabulary]
        lacking.append(f"{', '.join(names)} (as in {family.family})")
    raise ValueError(
        f"the vocabulary of {len(vocabulary)} tokens lacks {'; '.join(lacking)}; it must have all"
        " of one set"
    )
