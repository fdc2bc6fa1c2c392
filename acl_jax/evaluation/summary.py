# SPDX-License-Identifier: Apache-2.0
"""The metrics of `report.json`, pooled over all tokens or words."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np

from acl_jax.evaluation.examples import CONDITIONS, Example
from acl_jax.evaluation.scores import Score


def mean_nll(scores: Sequence[Score]) -> float:
  """Return the mean nats per token over all responses; ValueError if not finite."""
  nll = np.concatenate([score.nll for score in scores]).astype(np.float64)
  if not np.isfinite(nll).all():
    raise ValueError('response NLL is NaN or infinite; check the checkpoint')
  return float(nll.mean())


def greedy_agreement(scores: Sequence[Score], reference: Sequence[Score]) -> float:
  """Return the share of response tokens with equal greedy predictions."""
  same = [
    a.greedy_tokens == b.greedy_tokens for a, b in zip(scores, reference, strict=True)
  ]
  return float(np.concatenate(same).mean())


def word_error_rate(
  references: Sequence[str], hypotheses: Sequence[str | None]
) -> float | None:
  """Return errors per reference word, pooled, after Whisper's English normalisation.

  None if no reference has words, or if hypotheses are missing.
  """
  normalise = _english_normaliser()
  normalised_references = [normalise(reference) for reference in references]
  normalised_hypotheses = [
    normalise(hypothesis) for hypothesis in hypotheses if hypothesis is not None
  ]
  if len(normalised_hypotheses) < len(normalised_references):
    return None
  if not any(normalised_references):
    return None
  return jiwer.wer(normalised_references, normalised_hypotheses)


def _english_normaliser() -> Callable[[str], str]:
  with warnings.catch_warnings():
    # Its source has an invalid escape sequence, a SyntaxWarning when compiled.
    warnings.simplefilter('ignore')
    from whisper_normalizer.english import EnglishTextNormalizer

  return EnglishTextNormalizer()


def gap_closed(nll: Mapping[str, float | None], name: str) -> float | None:
  """Return the share of the NLL gap from shuffled audio (0) to text (1) closed.

  None if an NLL is missing, or if shuffled audio is no worse than text.
  """
  shuffled, condition, text = nll['shuffled_audio'], nll[name], nll['text']
  if shuffled is None or condition is None or text is None or shuffled <= text:
    return None
  return (shuffled - condition) / (shuffled - text)


def summarise(
  examples: Sequence[Example],
  scores: Mapping[str, Sequence[Score]],
  model: Mapping[str, Any],
  skipped: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
  """Return the content of `report.json`; metrics that were not measured are None."""
  nll = {
    name: mean_nll(scores[name]) if name in scores else None for name in CONDITIONS
  }
  references = [example.utterance.text for example in examples]
  return {
    'examples': len(examples),
    'response_nll': nll,
    'response_perplexity': {
      name: None if value is None else math.exp(value) for name, value in nll.items()
    },
    'greedy_agreement': {
      name: greedy_agreement(scores[name], scores['text']) if name in scores else None
      for name in ('audio', 'cascade')
    },
    'wer': {
      'cascade': word_error_rate(
        references, [example.cascade_transcript for example in examples]
      ),
      'ctc': word_error_rate(
        references, [example.ctc_transcript for example in examples]
      ),
    },
    'model': dict(model),
    'skipped': list(skipped),
  }


def format_table(summary: Mapping[str, Any]) -> str:
  """Format the scores of a report for the terminal."""
  nll = summary['response_nll']
  lines = [f'{"":16}{"nats/token":>12}{"perplexity":>12}{"gap closed":>12}']
  for name in nll:
    perplexity, closed = summary['response_perplexity'][name], gap_closed(nll, name)
    cells = [(nll[name], '.3f'), (perplexity, '.3f'), (closed, '.1%')]
    texts = ('-' if value is None else format(value, spec) for value, spec in cells)
    lines.append(f'{name:16}' + ''.join(f'{text:>12}' for text in texts))
  return '\n'.join(lines)
