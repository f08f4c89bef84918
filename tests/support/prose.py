"""Finds the sentences of docstrings and pages, to measure their length.

Headings, tables, byte tables, code and doctests are no sentences. Each list item is read by itself. Code in backquotes
does not count as words, because a list of names is no sentence either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_WORDS = 25

_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
_BYTE_TABLE = re.compile(r"^\s*offset\s+size\b")
_BULLET = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_NO_PROSE = ("|", "#", "<", ">>>", "...", "===", "---")
_PRODUCTS = "asyncio|kombu|uvloop|msgspec|pytest|glibc"
"""Names that begin a sentence in lower case."""
_END = re.compile(r"(?<=[.!?])[)\"'`*_]*\s+(?=[\"'`*_(\[]*(?:[A-Z0-9`]|" + _PRODUCTS + "))")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|et al|cf)\.$")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"``?[^`]+``?")


def long_sentences(text: str) -> list[str]:
    """Returns the sentences of more than `MAX_WORDS` words. `text` is a page or a docstring, without indentation."""
    return [sentence for sentence in sentences(text) if _count_words(sentence) > MAX_WORDS]


def sentences(text: str) -> Iterator[str]:
    """Yields each sentence on one line. Links are replaced by their text, and code by `code`."""
    for paragraph in _paragraphs(text):
        plain = _CODE.sub("`code`", _LINK.sub(r"\1", paragraph))
        start = 0
        for end in _END.finditer(plain):
            if not _ABBREVIATION.search(plain[: end.start()]):
                yield plain[start : end.start()]
                start = end.end()
        yield plain[start:]


def _paragraphs(text: str) -> Iterator[str]:
    gathered: list[str] = []
    in_byte_table = False
    for line in [*_FENCE.sub("", text).splitlines(), ""]:
        in_byte_table = bool(line.strip()) and (in_byte_table or bool(_BYTE_TABLE.match(line)))
        is_prose = not in_byte_table and _is_prose(line, bool(gathered))
        if gathered and (not is_prose or _BULLET.match(line)):
            yield " ".join(gathered)
            gathered = []
        if is_prose:
            gathered.append(_BULLET.sub("", line).strip())


def _is_prose(line: str, continues: bool) -> bool:
    if not line.strip() or line.strip().startswith(_NO_PROSE):
        return False
    return continues or bool(_BULLET.match(line)) or not line.startswith("    ")


def _count_words(sentence: str) -> int:
    return sum(word.strip("(),;:.") != "`code`" for word in sentence.split())
