"""Text that comes in pieces, broken between words."""

from __future__ import annotations

from collections.abc import Callable


class WordWrap:
    """Puts line ends where a terminal would cut a word. `width` gives its columns, asked at every
    word, since a window may change meanwhile; math.inf breaks nothing.

    A word is held back until it is whole. Characters of two columns (Chinese, emoji) are words.
    """

    def __init__(self, width: Callable[[], float]) -> None:
        self._width = width
        self._column = 0
        self._gap = ""  # white space in front of `_word`
        self._word = ""

    def add(self, text: str) -> str:
        """What can be shown now that `text` has come."""
        from rich.cells import cell_len

        shown = []
        for character in text:
            if character.isspace():
                shown.append(self._put_word())
                self._gap += character
            elif cell_len(character) > 1:
                shown.append(self._put_word())
                self._word = character
                shown.append(self._put_word())
            else:
                self._word += character
        return "".join(shown)

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        shown, self._gap = self._put_word() + self._gap, ""
        return shown

    def _put_word(self) -> str:
        from rich.cells import cell_len

        if not self._word:
            return ""
        lines, _, spaces = self._gap.rpartition("\n")
        if "\n" in self._gap:
            lines += "\n"
            self._column = 0
        end = self._column + cell_len(spaces) + cell_len(self._word)
        if end > self._width() and self._column > 0:
            lines, spaces = lines + "\n", ""
            end = cell_len(self._word)
        shown = lines + spaces + self._word
        self._column, self._gap, self._word = end, "", ""
        return shown
