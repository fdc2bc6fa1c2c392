# SPDX-License-Identifier: Apache-2.0
"""Constraints on the words and letters of an answer, as IFEval checks them."""

import re
from collections.abc import Sequence

from acl_jax.evaluation.scoring import english


def count_keyword(text: str, keyword: str) -> int:
  """Return how often it occurs, in words too, in any case."""
  return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
  """Return whether all occur, in words too, in any case."""
  return all(count_keyword(text, keyword) for keyword in keywords)


def lacks_words(text: str, words: Sequence[str]) -> bool:
  """Return whether none occurs as a word of its own, in any case."""
  return not any(_has_word(text, word) for word in words)


def count_letter(text: str, letter: str) -> int:
  """Return how often it occurs, in any case."""
  return text.lower().count(letter.lower())


def is_uppercase(text: str) -> bool:
  """Return whether it is English without a small letter."""
  return text.isupper() and english.has_language(text, 'en')


def is_lowercase(text: str) -> bool:
  """Return whether it is English without a capital letter."""
  return text.islower() and english.has_language(text, 'en')


def has_no_commas(text: str) -> bool:
  """Return whether there is no comma."""
  return ',' not in text


def starts_with(text: str, phrase: str) -> bool:
  """Return whether it begins so, in any case; quotation marks may surround it.

  IFEval's data has no such constraint.
  """
  return text.strip().strip('"').lower().startswith(phrase.lower())


def ends_with(text: str, phrase: str) -> bool:
  """Return whether it ends so, in any case; quotation marks may surround it."""
  return text.strip().strip('"').lower().endswith(phrase.lower())


def repeats(text: str, phrase: str) -> bool:
  """Return whether it begins so, in any case."""
  return text.strip().lower().startswith(phrase.lower())


def chooses(text: str, options: Sequence[str]) -> bool:
  """Return whether exactly one option occurs, in any case, as words of its own.

  IFEval's `contains_option` would find 'no' in 'I know'.
  """
  return sum(_has_word(text, option) for option in options) == 1


def contains_option(text: str, options: Sequence[str]) -> bool:
  """Return whether an option occurs, in its case."""
  return any(option in text for option in options)


def _has_word(text: str, word: str) -> bool:
  return re.search(rf'\b{re.escape(word)}\b', text, re.IGNORECASE) is not None
