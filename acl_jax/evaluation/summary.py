# SPDX-License-Identifier: Apache-2.0
"""The numbers of `report.json`, each pooled over everything that it counts."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np

from acl_jax.evaluation.examples import CONDITIONS, Example
from acl_jax.evaluation.scores import Score


def mean_nll(scores: Sequence[Score]) -> float:
  """Nats per token over all tokens of all responses."""
  nll = np.concatenate([score.nll for score in scores]).astype(np.float64)
  if not np.isfinite(nll).all():
    raise ValueError('the model gives probabilities that are no numbers')
  return float(nll.mean())


def agreement(scores: Sequence[Score], to: Sequence[Score]) -> float:
  """The share of response tokens where both would have taken the same token."""
  same = [a.best == b.best for a, b in zip(scores, to, strict=True)]
  return float(np.concatenate(same).mean())


def word_error_rate(
  references: Sequence[str], hypotheses: Sequence[str | None]
) -> float | None:
  """Errors per word of all references, both as Whisper's authors normalise English.

  None without words to count, or without hypotheses.
  """
  normalise = _normaliser()
  said = [normalise(reference) for reference in references]
  heard = [normalise(words) for words in hypotheses if words is not None]
  if len(heard) < len(said) or not any(said):
    return None
  return jiwer.wer(said, heard)


def _normaliser() -> Callable[[str], str]:
  with warnings.catch_warnings():
    # Python complains of an escape sequence in it when it compiles it.
    warnings.simplefilter('ignore')
    from whisper_normalizer.english import EnglishTextNormalizer

  return EnglishTextNormalizer()


def gap_closed(nll: Mapping[str, float | None], name: str) -> float | None:
  """How far a condition is on the way from another's audio (0) to the text (1)."""
  floor, here, top = nll['shuffled_audio'], nll[name], nll['text']
  if floor is None or here is None or top is None or floor <= top:
    return None
  return (floor - here) / (floor - top)


def summarise(
  examples: Sequence[Example],
  scores: Mapping[str, Sequence[Score]],
  model: Mapping[str, Any],
  skipped: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
  """All of `report.json`; what was not measured is None."""
  nll = {
    name: mean_nll(scores[name]) if name in scores else None for name in CONDITIONS
  }
  said = [example.utterance.text for example in examples]
  return {
    'examples': len(examples),
    'response_nll': nll,
    'response_perplexity': {
      name: None if value is None else math.exp(value) for name, value in nll.items()
    },
    'greedy_agreement': {
      name: agreement(scores[name], scores['text']) if name in scores else None
      for name in ('audio', 'cascade')
    },
    'wer': {
      'cascade': word_error_rate(said, [example.cascade for example in examples]),
      'ctc': word_error_rate(said, [example.heard for example in examples]),
    },
    'model': dict(model),
    'skipped': list(skipped),
  }
