# SPDX-License-Identifier: Apache-2.0
"""Whether an answer holds a right one, both normalised as SQuAD's are.

Source: Rajpurkar et al. 2016.
"""

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalise(text: str) -> str:
  """Return lower case, without punctuation, articles and repeated spaces."""
  return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())


def contains(text: str, answers: Sequence[str]) -> bool:
  """Return whether one of the answers occurs in a text, as whole words.

  An answer of nothing but articles and punctuation is looked for as it is.
  """
  normalised = f' {normalise(text)} '
  return any(
    f' {known} ' in normalised if (known := normalise(answer)) else answer in text
    for answer in answers
  )


def equals(text: str, answers: Sequence[str]) -> bool:
  """Return whether a text is one of the answers."""
  said = normalise(text)
  return any(
    known == said if (known := normalise(answer)) else answer == text
    for answer in answers
  )
