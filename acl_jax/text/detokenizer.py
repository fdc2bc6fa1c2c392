# SPDX-License-Identifier: Apache-2.0
"""Token ids to text as they arrive: whole characters only, up to a stop string."""

from collections.abc import Sequence

from acl_jax.text.tokenizer import Tokenizer

_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'


class Detokenizer:
  """The text of a growing list of token ids; the pieces join to the text of all.

  Only the ids since the last two pieces are decoded: how a token is decoded depends on
  the one before it, but not on earlier ones.
  """

  def __init__(self, tokenizer: Tokenizer):
    self._tokenizer = tokenizer
    self._ids: list[int] = []
    self._shown = 0  # how many of them have been returned as text

  def push(self, id: int) -> str:
    """Return the text that a token completes; '' within a character."""
    self._ids.append(id)
    text = self._tokenizer.decode(self._ids)
    if text.endswith(_INCOMPLETE):
      return ''
    return self._take(text)

  def finish(self) -> str:
    """Return what remains, which may be half a character."""
    return self._take(self._tokenizer.decode(self._ids))

  def _take(self, text: str) -> str:
    before = self._tokenizer.decode(self._ids[: self._shown])
    piece = text[len(before) :]
    if piece:
      self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
    return piece


class StopStrings:
  """Cuts a text that arrives in pieces before the first of some strings."""

  def __init__(self, strings: Sequence[str]):
    self._strings = [string for string in strings if string]
    self._held = ''  # may be the beginning of one
    self.found = False

  def push(self, piece: str) -> str:
    """Return the text before a stop string, less what may be the start of one."""
    if self.found:
      return ''
    text = self._held + piece
    places = [p for p in (text.find(s) for s in self._strings) if p >= 0]
    if places:
      self.found, self._held = True, ''
      return text[: min(places)]
    num_held = self._num_held(text)
    self._held = text[len(text) - num_held :]
    return text[: len(text) - num_held]

  def finish(self) -> str:
    """Return what was held back: nothing follows that could complete it."""
    held, self._held = self._held, ''
    return held

  def _num_held(self, text: str) -> int:
    longest = max(map(len, self._strings), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
      if any(string.startswith(text[-length:]) for string in self._strings):
        return length
    return 0
