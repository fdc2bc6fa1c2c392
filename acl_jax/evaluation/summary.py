# SPDX-License-Identifier: Apache-2.0
"""The metrics of `report.json`, pooled over all tokens or words."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jiwer
import numpy as np
from jaxtyping import Int

from acl_jax.evaluation.bootstrap import (
  difference_interval,
  gap_closed_interval,
  ratio_interval,
  to_json,
)
from acl_jax.evaluation.examples import CONDITIONS, Example
from acl_jax.evaluation.scores import Score

COMPARED = ('audio', 'cascade', 'cascade_ctc')  # by the gap that they close
DIFFERENCES = (('audio', 'cascade_ctc'), ('audio', 'cascade'))

# By example with words: the errors of the hypothesis, and the words of the reference.
WordErrors = tuple[Int[np.ndarray, ' n'], Int[np.ndarray, ' n']]


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

  References without words are left out, whatever their hypotheses. None if no reference
  has words, or if hypotheses are missing.
  """
  return _pool(count_word_errors(references, hypotheses))


def _pool(counts: WordErrors | None) -> float | None:
  return None if counts is None else float(counts[0].sum() / counts[1].sum())


def count_word_errors(
  references: Sequence[str], hypotheses: Sequence[str | None]
) -> WordErrors | None:
  """Return the errors of each hypothesis and the words of its reference.

  References without words are left out. None if none has words, or if hypotheses are
  missing.
  """
  normalise = english_normaliser()
  pairs = [
    (words, hypothesis)
    for words, hypothesis in zip(map(normalise, references), hypotheses, strict=True)
    if words
  ]
  spoken = [normalise(each) for _, each in pairs if each is not None]
  if not pairs or len(spoken) < len(pairs):
    return None
  aligned = jiwer.process_words([words for words, _ in pairs], spoken)
  errors = [
    sum(
      max(
        chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
      )
      for chunk in chunks
      if chunk.type != 'equal'
    )
    for chunks in aligned.alignments
  ]
  return np.array(errors), np.array([len(words) for words in aligned.references])


def count_wordless(references: Sequence[str]) -> int:
  """Return how many references have no words after Whisper's English normalisation."""
  return sum(not words for words in map(english_normaliser(), references))


def english_normaliser() -> Callable[[str], str]:
  """Return the normalisation of Whisper's word error rates."""
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
  word_errors = {
    'cascade': count_word_errors(
      references, [example.cascade_transcript for example in examples]
    ),
    'ctc': count_word_errors(
      references, [example.ctc_transcript for example in examples]
    ),
  }
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
    'wer': {name: _pool(counts) for name, counts in word_errors.items()},
    'wer_left_out': count_wordless(references),
    **_summarise_intervals(scores, word_errors),
    'model': dict(model),
    'skipped': list(skipped),
  }


def _summarise_intervals(
  scores: Mapping[str, Sequence[Score]], word_errors: Mapping[str, WordErrors | None]
) -> dict[str, Any]:
  sums = {
    name: np.array([score.nll.sum(dtype=np.float64) for score in group])
    for name, group in scores.items()
  }
  num_tokens = np.array([len(score.nll) for score in scores['text']])
  return {
    'gap_closed': {name: to_json(gap_closed_interval(sums, name)) for name in COMPARED},
    'differences': {
      f'{first} - {second}': to_json(
        difference_interval(sums, num_tokens, first, second), 'nats'
      )
      for first, second in DIFFERENCES
    },
    'wer_interval': {
      name: None if counts is None else to_json(ratio_interval(*counts))
      for name, counts in word_errors.items()
    },
  }


def format_table(summary: Mapping[str, Any]) -> str:
  """Format the scores of a report for the terminal, with 95 % intervals."""
  nll = summary['response_nll']
  header = (
    f'{"nats/token":>12}{"perplexity":>12}{"gap closed":>12}{"95 % interval":>20}'
  )
  lines = [f'{"":16}{header}']
  for name in nll:
    perplexity, closed = summary['response_perplexity'][name], gap_closed(nll, name)
    cells = [(nll[name], '.3f'), (perplexity, '.3f'), (closed, '.1%')]
    texts = ('-' if value is None else format(value, spec) for value, spec in cells)
    bounds = _format_bounds(summary['gap_closed'].get(name), '.1%')
    lines.append(f'{name:16}' + ''.join(f'{t:>12}' for t in texts) + f'{bounds:>20}')
  for name, difference in summary['differences'].items():
    lines.append(f'{name}: {_format_difference(difference)}')
  return '\n'.join(lines)


def _format_bounds(interval: Mapping[str, Any] | None, spec: str) -> str:
  """Format `low` and `high` of an interval of the report; '-' for what is None."""
  if interval is None:
    return '-'
  bounds = (interval['low'], interval['high'])
  low, high = ('-' if bound is None else format(bound, spec) for bound in bounds)
  return f'{low} to {high}'


def _format_difference(difference: Mapping[str, Any] | None) -> str:
  if difference is None:
    return 'not measured (needs both conditions and at least 2 examples)'
  bounds = _format_bounds(difference, '+.3f')
  return (
    f'{difference["nats"]:+.3f} nats/token, 95 % interval {bounds}: '
    f'{describe_significance(difference)}'
  )


def describe_significance(interval: Mapping[str, Any]) -> str:
  """Return whether an interval of the report excludes 0, in words."""
  low, high = interval['low'], interval['high']
  excludes_zero = (low is not None and low > 0) or (high is not None and high < 0)
  return 'significant' if excludes_zero else 'not significant'
