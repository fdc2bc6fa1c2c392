# SPDX-License-Identifier: Apache-2.0
"""Scores by learned models, COMET and BERTScore, where their packages are installed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from acl_jax.evaluation.scoring.packages import is_installed, require

COMET_MODEL = 'Unbabel/wmt22-comet-da'
COMET_IS_INSTALLED = is_installed('comet')
BERT_SCORE_IS_INSTALLED = is_installed('bert_score')

Texts = tuple[str, ...]


class CachedScores:
  """Scores tuples of texts in batches, each tuple once."""

  def __init__(self, score: Callable[[Sequence[Texts]], Sequence[float]]):
    self._score = score
    self._scores: dict[Texts, float] = {}

  def mean(self, rows: Sequence[Texts]) -> float:
    """Return the mean score of at least one row."""
    new = [row for row in dict.fromkeys(rows) if row not in self._scores]
    if new:
      self._scores.update(zip(new, map(float, self._score(new)), strict=True))
    return sum(self._scores[row] for row in rows) / len(rows)


@functools.cache
def comet() -> CachedScores:
  """COMET of rows of (source, hypothesis, reference); loads its model."""
  package: Any = require('comet', 'unbabel-comet')
  model = package.load_from_checkpoint(package.download_model(COMET_MODEL))

  def score(rows: Sequence[Texts]) -> Sequence[float]:
    inputs = [dict(zip(('src', 'mt', 'ref'), row, strict=True)) for row in rows]
    return model.predict(inputs, batch_size=8, gpus=0).scores

  return CachedScores(score)


@functools.cache
def bert_score() -> CachedScores:
  """BERTScore's F1, rescaled, of rows of (hypothesis, reference); loads its model."""
  package: Any = require('bert_score', 'bert-score')
  scorer = package.BERTScorer(lang='en', rescale_with_baseline=True)

  def score(rows: Sequence[Texts]) -> Sequence[float]:
    hypotheses, references = zip(*rows, strict=True)
    return scorer.score(list(hypotheses), list(references))[2].tolist()

  return CachedScores(score)
