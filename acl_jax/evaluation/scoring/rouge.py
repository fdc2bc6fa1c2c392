# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L, by the package rouge-score."""

import functools
from typing import Any

from acl_jax.evaluation.scoring.packages import require


def rouge_l(hypothesis: str, reference: str) -> float:
  """Return the F1 of the longest common subsequence of words, 0 to 1."""
  return float(_scorer().score(reference, hypothesis)['rougeL'].fmeasure)


def has_words(text: str) -> bool:
  """Return whether ROUGE finds a word: it knows the letters a to z and digits only."""
  return any(c.isascii() and c.isalnum() for c in text.lower())


@functools.cache
def _scorer() -> Any:
  package = require('rouge_score.rouge_scorer', 'rouge-score')
  return package.RougeScorer(['rougeL'])
