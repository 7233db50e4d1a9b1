"""What a person sees while waiting: a progress bar on stderr, words on stdout as they come."""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from typing import Any, TextIO

from sparrow_kernels.cli.errors import one_line

_BAR_WIDTH = 24
_WIDTH = 80  # of a terminal that does not say
_REDRAW_SECONDS = 0.05
_CLEAR_LINE = "\r\033[K"
# A word that may go on, or a character that lacks bytes (U+FFFD), until more tokens come. Scripts
# from U+2E80 on, such as Chinese, put no spaces between words.
_UNFINISHED = re.compile(r"[^\s\u2e80-\ufffc]+$")


class ProgressBar:
    """One line that is redrawn in place and cleared at the end; silent where no terminal can do so.

    Used as `bar(done, total)`, from 0 on, inside a `with` block that clears it however it ends.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = 0.0
        self._drawn_at = 0.0
        self._visible = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if done == 0:
            self._began = now
        if not self._shown or (0 < done < total and now - self._drawn_at < _REDRAW_SECONDS):
            return
        self._drawn_at = now
        filled = _BAR_WIDTH * done // total
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        seconds = now - self._began
        self._draw(f"{self._label} [{bar}] {done}/{total}  {seconds:.1f} s")

    def note(self, text: str) -> None:
        """Show `text` in place of the bar."""
        if self._shown:
            self._draw(text)

    def clear(self) -> None:
        """Take the line away, so that other output can use it."""
        if self._visible:
            self._write(_CLEAR_LINE)
            self._visible = False

    def _draw(self, text: str) -> None:
        """As much of `text` as fits: of a line that wraps, the end alone could be cleared."""
        shown = one_line(text)
        while shown and _columns(shown) >= self._width():
            shown = shown[:-1]
        self._write(_CLEAR_LINE + shown)
        self._visible = True

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or _WIDTH
        except (OSError, ValueError):
            return _WIDTH

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _columns(text: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


class WordStream:
    """A streamer in transformers' sense that prints whole words as tokens are accepted.

    Args:
        tokenizer: decodes tokens; special tokens are left out.
        bar: cleared before the first word.
        stream: where to write.
    """

    def __init__(self, tokenizer: Any, bar: ProgressBar, stream: TextIO | None = None) -> None:
        self._tokenizer = tokenizer
        self._bar = bar
        self._stream = sys.stdout if stream is None else stream
        self._tokens: list[int] = []
        self._printed = 0  # characters of the decoded text
        self._saw_prompt = False

    def put(self, value: Any) -> None:
        """The prompt first, then emitted tokens `[n]`."""
        if not self._saw_prompt:
            self._saw_prompt = True
            return
        self._bar.clear()
        self._tokens += value.flatten().tolist()
        text = self._text()
        held_back = _UNFINISHED.search(text)
        self._print(text, held_back.start() if held_back else len(text))

    def end(self) -> None:
        """Print what is left, and end the line."""
        text = self._text()
        self._print(text, len(text))
        self._tokens, self._printed = [], 0
        self._stream.write("\n")
        self._stream.flush()

    def cut(self) -> None:
        """End the line after words that an error or Ctrl-C has cut short."""
        if self._tokens:
            self.end()

    def _text(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)

    def _print(self, text: str, end: int) -> None:
        if end > self._printed:
            self._stream.write(text[self._printed : end])
            self._stream.flush()
            self._printed = end
