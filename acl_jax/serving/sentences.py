# SPDX-License-Identifier: Apache-2.0
"""Text cut into pieces to be spoken, each as soon as it is complete.

Where a text is cut depends on the text alone, not on the pieces in which it arrives. A
sentence ends at its punctuation and the white space after it, or at a line break.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

MAX_CHARACTERS = 300  # of a piece
# The first piece may end at a comma after so many characters.
_MIN_CLAUSE = 40

# A full stop after these never ends a sentence; after the others it does if a capital
# letter follows.
_BEFORE_NAMES = frozenset(
  'mr mrs ms dr prof st sr jr rev gen col capt sgt lt mt no nos vol fig figs eq eqs pp'
  ' vs cf approx e.g i.e viz'.split()
)
_ANYWHERE = frozenset(
  'etc inc ltd co corp dept est al a.m p.m u.s u.k u.n e.u d.c ph.d'
  ' jan feb mar apr jun jul aug sep sept oct nov dec'.split()
)
_ENDS = re.compile(
  r"""(?P<line>\n)
  | (?P<clause>[,;:\u2013\u2014](?=\s))
  | (?P<wide>[\u3002\uff01\uff1f]+(?=[^\u3002\uff01\uff1f]))
  | (?P<sentence>[.!?\u2026]+["'\u2019\u201d\u00bb)\]*_]*(?=\s))""",
  re.VERBOSE,
)
_SPACE = re.compile(r'\s*')
_LAST_WORD = re.compile(r'[^\s("\'\u2018\u201c\u00ab\[*_]+$')
_NUMBERED = re.compile(r'\(?(?:\d{1,3}|[A-Za-z])[.)]')  # the number of a list's item


async def take_until_none(queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
  """Yield the pieces of text that are put into a queue, until None is."""
  while (piece := await queue.get()) is not None:
    yield piece


async def split_sentences(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
  """Yield the sentences of a text that arrives in pieces, stripped and not empty.

  At most MAX_CHARACTERS each: a longer sentence is cut at a comma or between words.
  """
  splitter = SentenceSplitter()
  async for piece in pieces:
    for sentence in splitter.push(piece):
      yield sentence
  for sentence in splitter.finish():
    yield sentence


class SentenceSplitter:
  """Cuts a growing text into sentences.

  starts_early: the first piece may end at a comma, so that sound starts early.
  """

  def __init__(self, starts_early: bool = True):
    self._text, self._is_first = '', starts_early

  def push(self, piece: str) -> Iterator[str]:
    """Yield the sentences that the next piece of text completes."""
    return self._cut(piece, is_last=False)

  def finish(self) -> Iterator[str]:
    """Yield what remains."""
    return self._cut('', is_last=True)

  def _cut(self, piece: str, is_last: bool) -> Iterator[str]:
    text, start = self._text + piece, 0
    while True:
      if space := _SPACE.match(text, start):
        start = space.end()
      window = text[start : start + MAX_CHARACTERS + 2]
      if not window:
        break
      end = _find_end(window, self._is_first, is_last)
      if not end:
        break
      self._is_first = False
      yield window[:end].rstrip()
      start += end
    self._text = text[start:]


def _find_end(window: str, is_first: bool, is_last: bool) -> int:
  """Return where the first piece of a text ends; 0 if what follows may decide it.

  window: the text without white space before it, at most MAX_CHARACTERS + 2 characters.
  The answer for a longer text is the same.
  """
  for match in _ENDS.finditer(window):
    end = match.end()
    if match['line']:
      end -= 1
    if end > MAX_CHARACTERS:
      break
    if match['clause']:
      if is_first and end >= _MIN_CLAUSE:
        return end
    elif match['sentence']:
      after = window[end + 1 : end + 2]
      if _ends_sentence(window[: match.start()], match['sentence'], after):
        return end
    else:
      return end
  if len(window) <= MAX_CHARACTERS + (not is_last):
    return len(window) if is_last else 0
  return _cut_long(window)


def _ends_sentence(before: str, mark: str, after: str) -> bool:
  """Return whether a mark ends a sentence.

  before: the sentence without the mark. after: the second character after the mark; the
  first one is white space.
  """
  if mark.strip('"\'\u2019\u201d\u00bb)]*_') != '.':
    return True
  if _NUMBERED.fullmatch(before + '.'):
    return False
  word = _LAST_WORD.search(before)
  word = word[0].lower() if word else ''
  if word in _BEFORE_NAMES or (len(word) == 1 and word.isalpha() and word != 'i'):
    return False
  return word not in _ANYWHERE or after.isupper()


def _cut_long(window: str) -> int:
  """Return where to cut a sentence of more than MAX_CHARACTERS."""
  clauses = [m.end() for m in _ENDS.finditer(window) if m['clause']]
  clauses = [end for end in clauses if MAX_CHARACTERS // 3 <= end <= MAX_CHARACTERS]
  if clauses:
    return clauses[-1]
  words = list(re.finditer(r'\s', window[: MAX_CHARACTERS + 1]))
  return words[-1].start() if words else MAX_CHARACTERS
