# SPDX-License-Identifier: Apache-2.0
"""What was heard, word by word, with posteriors and alternatives.

The same rules as in the page of `serve` (`serving/page/heard.js`): a word is as certain
as its weakest token, and the alternatives replace that token.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from acl_jax.evaluation.case_records import Token

SURE = 0.6  # words whose posterior is below show their alternatives
MAX_ALTERNATIVES = 3


class Word(NamedTuple):
  """A word of a transcript.

  probability: its posterior, None where no token was found. alternatives: words and
  their probabilities; empty for words that are sure.
  """

  text: str
  probability: float | None
  alternatives: tuple[tuple[str, float], ...] = ()

  @property
  def level(self) -> str:
    """How certain the word is: 'sure', 'fair' or 'unsure'."""
    if self.probability is None or self.probability >= 0.9:
      return 'sure'
    return 'fair' if self.probability >= SURE else 'unsure'


def split_words(transcript: str, tokens: Sequence[Token]) -> list[Word]:
  """Split a transcript into words with their posteriors.

  Tokens are found in the transcript one after another, so that it does not matter how
  a tokenizer writes spaces; those that are not found are left out.
  """
  spans = [(match[0], match.start(), match.end()) for match in _words(transcript)]
  weakest: list[tuple[Token, int] | None] = [None] * len(spans)  # and its offset
  position = index = 0
  for token in tokens:
    text = token.text.strip()
    start = transcript.find(text, position) if text else -1
    if start < 0:
      continue
    position = start + len(text)
    while index < len(spans) and spans[index][2] <= start:
      index += 1
    if index == len(spans):
      break
    known = weakest[index]
    if known is None or token.log_prob < known[0].log_prob:
      weakest[index] = token, start - spans[index][1]
  return [
    _make_word(word, found) for (word, _, _), found in zip(spans, weakest, strict=True)
  ]


def _words(transcript: str):
  return re.finditer(r'\S+', transcript)


def _make_word(word: str, weakest: tuple[Token, int] | None) -> Word:
  if weakest is None:
    return Word(word, None)
  token, offset = weakest
  probability = _probability(token.log_prob)
  if probability is None or probability >= SURE:
    return Word(word, probability)
  text = token.text.strip()
  alternatives = []
  for other, log_prob in token.alternatives:
    share = _probability(log_prob)
    if other.strip() != text and share is not None:
      replaced = word[:offset] + other.strip() + word[offset + len(text) :]
      alternatives.append((replaced, share))
  return Word(word, probability, tuple(alternatives[:MAX_ALTERNATIVES]))


def _probability(log_prob: float) -> float | None:
  return math.exp(min(log_prob, 0.0)) if not math.isnan(log_prob) else None
