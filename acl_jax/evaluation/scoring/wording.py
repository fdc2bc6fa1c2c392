# SPDX-License-Identifier: Apache-2.0
"""Constraints on the words and letters of an answer; names of fields are IFEval's."""

import re
from collections.abc import Sequence

from acl_jax.evaluation.scoring import english


def compare(count: int, limit: int, relation: str) -> bool:
  """Return whether `count` is 'less than' or 'at least' the limit."""
  return count < limit if relation == 'less than' else count >= limit


def num_words(text: str, num_words: int, relation: str) -> bool:
  """Whether there are fewer or at least so many words."""
  return compare(english.count_words(text), num_words, relation)


def num_sentences(text: str, num_sentences: int, relation: str) -> bool:
  """Whether there are fewer or at least so many sentences."""
  return compare(len(english.split_sentences(text)), num_sentences, relation)


def keywords(text: str, keywords: Sequence[str]) -> bool:
  """Whether all occur, in words too, in any case."""
  return all(_occurrences(keyword, text) for keyword in keywords)


def forbidden_words(text: str, forbidden_words: Sequence[str]) -> bool:
  """Whether none occurs as a word of its own, in any case."""
  patterns = (rf'\b{re.escape(word)}\b' for word in forbidden_words)
  return not any(re.search(p, text, re.IGNORECASE) for p in patterns)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
  """Whether it occurs less or at least so often, in words too, in any case."""
  return compare(_occurrences(keyword, text), frequency, relation)


def letter_frequency(
  text: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """Whether it occurs less or at least so often, in any case."""
  count = text.lower().count(letter.lower())
  return compare(count, let_frequency, let_relation)


def capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
  """Whether there are fewer or at least so many words in capitals."""
  count = english.count_capital_words(text)
  return compare(count, capital_frequency, capital_relation)


def uppercase(text: str) -> bool:
  """Whether it is English without a small letter."""
  return text.isupper() and english.has_language(text, 'en')


def lowercase(text: str) -> bool:
  """Whether it is English without a capital letter."""
  return text.islower() and english.has_language(text, 'en')


def no_commas(text: str) -> bool:
  """Whether there is none."""
  return ',' not in text


def language(text: str, language: str) -> bool:
  """Whether it is in this language, or in none that can be told."""
  return english.has_language(text, language)


def starts_with(text: str, starter: str) -> bool:
  """Whether a line starts so, as in IFEval."""
  return re.search(rf'^\s*{re.escape(starter)}', text, re.MULTILINE) is not None


def ends_with(text: str, end_phrase: str) -> bool:
  """Whether the phrase ends it, in any case; quotation marks may surround it."""
  return text.strip().strip('"').lower().endswith(end_phrase.lower())


def repeats(text: str, prompt_to_repeat: str) -> bool:
  """Whether the request comes first, in any case."""
  return text.strip().lower().startswith(prompt_to_repeat.lower())


def chooses(text: str, options: Sequence[str]) -> bool:
  """Whether it contains one of the options."""
  return any(option in text for option in options)


def _occurrences(keyword: str, text: str) -> int:
  return len(re.findall(re.escape(keyword), text, re.IGNORECASE))
