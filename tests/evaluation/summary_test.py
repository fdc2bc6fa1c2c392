# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.evaluation.examples import Example
from acl_jax.evaluation.scores import Score
from acl_jax.evaluation.summary import (
  count_word_errors,
  count_wordless,
  describe_significance,
  format_table,
  gap_closed,
  greedy_agreement,
  mean_nll,
  summarise,
  word_error_rate,
)
from data_pipeline.corpora.utterance import Utterance

SENTENCES = st.lists(st.sampled_from(['dog', 'fox', 'band']), max_size=5).map(' '.join)


def make_score(nll, greedy_tokens=None):
  if greedy_tokens is None:
    greedy_tokens = [0] * len(nll)
  return Score(np.asarray(nll, np.float32), np.asarray(greedy_tokens))


def test_means_are_over_tokens():
  assert mean_nll([make_score([1, 1, 1]), make_score([5])]) == 2
  text = [make_score([0, 0, 0], [4, 5, 6]), make_score([0], [7])]
  audio = [make_score([0, 0, 0], [4, 5, 1]), make_score([0], [1])]
  assert greedy_agreement(audio, text) == 0.5


def test_nan_nll_raises():
  with pytest.raises(ValueError, match='NLL.*NaN'):
    mean_nll([make_score([1, np.nan])])


def test_word_errors_are_pooled_and_normalised():
  references = ["It's the colour of 20 dollars!", 'Hmm, yes.']
  hypotheses = ['it is the color of $20', 'no']
  assert word_error_rate(references, hypotheses) == pytest.approx(1 / 7)
  assert word_error_rate(references, [None, None]) is None
  assert word_error_rate(['Hmm.'], ['uh']) is None
  # No words of a reference, but words of its hypothesis: nothing is counted.
  assert word_error_rate(['Hmm.', 'a b'], ['one two three four', 'a c']) == 0.5
  assert word_error_rate(['Hmm.', 'a b'], [None, 'a c']) == 0.5
  assert count_wordless(['Hmm.', 'a b', '!', '']) == 3


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_word_errors_are_counted_by_example(pairs):
  references, hypotheses = zip(*pairs, strict=True)
  counts = count_word_errors(references, hypotheses)
  if counts is None:
    assert not any(references)
    return
  errors, words = counts
  pairs = [pair for pair in pairs if pair[0]]
  references, hypotheses = zip(*pairs, strict=True)
  assert words.tolist() == [len(reference.split()) for reference in references]
  alone = [jiwer.process_words(*pair) for pair in pairs]
  assert errors.tolist() == [
    o.substitutions + o.deletions + o.insertions for o in alone
  ]
  assert word_error_rate(references, hypotheses) == jiwer.wer(
    list(references), list(hypotheses)
  )


def make_summary(count=9, missing=()):
  """Audio costs 0.3 to 0.5 less than the CTC cascade, and as much as the cascade."""
  rng = np.random.default_rng(0)
  offsets = {
    'text': 0,
    'audio': 1,
    'cascade': 1,
    'cascade_ctc': 1.4,
    'shuffled_audio': 3,
    'no_prompt': 4,
  }
  hardness = rng.normal(scale=20, size=count)
  spread = {'cascade_ctc': 0.1, 'cascade': 0.5}
  scores = {
    name: [
      make_score(hard + offset + spread.get(name, 0) * (-1) ** i * np.ones(2 + i % 3))
      for i, hard in enumerate(hardness)
    ]
    for name, offset in offsets.items()
    if name not in missing
  }
  examples = [
    Example(
      Utterance(f'u{i}', Path('x.wav'), 'a dog'),
      np.zeros((1, 5), np.float32),
      'a dog' if i % 3 else 'a day',
      None if 'cascade' in missing else 'a dog',
    )
    for i in range(count)
  ]
  return summarise(examples, scores, {}, [])


def test_differences_are_paired():
  # The examples differ by far more nats than the conditions.
  summary = make_summary()
  better, same = summary['differences'].values()
  assert list(summary['differences']) == ['audio - cascade_ctc', 'audio - cascade']
  assert -0.5 < better['low'] < better['nats'] < better['high'] < -0.3
  assert same['low'] < 0 < same['high']
  nll = summary['response_nll']
  assert better['nats'] == pytest.approx(nll['audio'] - nll['cascade_ctc'])
  for name, interval in summary['gap_closed'].items():
    assert interval['value'] == pytest.approx(gap_closed(nll, name))
    assert 0 < interval['low'] <= interval['high'] < 1
  rate = summary['wer_interval']['ctc']
  assert rate['value'] == summary['wer']['ctc'] == pytest.approx(1 / 6)
  assert 0 <= rate['low'] < 1 / 6 < rate['high'] <= 0.5
  assert summary['wer_interval']['cascade'] == {'value': 0, 'low': 0, 'high': 0}


def test_the_table_has_intervals_and_verdicts():
  lines = format_table(make_summary()).splitlines()
  rows = {line.split()[0]: line for line in lines[1:-2]}
  assert ' to ' in rows['audio'] and rows['text'].endswith(' -')
  assert len({len(line) for line in lines[:-2]}) == 1
  assert lines[-2].startswith('audio - cascade_ctc: -0.') and ' to -0.' in lines[-2]
  assert lines[-2].endswith(': significant')
  assert lines[-1].startswith('audio - cascade: ')
  assert lines[-1].endswith(': not significant')


def test_what_is_missing_has_no_interval():
  summary = make_summary(missing=('cascade', 'shuffled_audio'))
  assert not any(summary['gap_closed'].values())
  assert summary['differences']['audio - cascade'] is None
  assert summary['differences']['audio - cascade_ctc'] is not None
  assert summary['wer_interval']['cascade'] is None
  assert '\naudio - cascade: not measured' in format_table(summary)
  single = make_summary(count=1, missing=('shuffled_audio',))
  for key in ('gap_closed', 'differences', 'wer_interval'):
    assert not any(single[key].values())


@pytest.mark.parametrize(
  'low, high, verdict',
  [
    (-2, -1, 'significant'),
    (1, 2, 'significant'),
    (-1, 1, 'not significant'),
    (0, 1, 'not significant'),
    (-1, 0, 'not significant'),
    (None, -1, 'significant'),
    (None, 1, 'not significant'),
    (None, None, 'not significant'),
  ],
)
def test_an_interval_without_zero_is_significant(low, high, verdict):
  assert describe_significance({'low': low, 'high': high}) == verdict


def test_gap_closed_is_relative_to_shuffled_audio_and_text():
  nll = {'text': 1.0, 'audio': 1.5, 'cascade': None, 'shuffled_audio': 3.0}
  assert gap_closed(nll, 'audio') == 0.75
  assert gap_closed(nll, 'text') == 1 and gap_closed(nll, 'shuffled_audio') == 0
  assert gap_closed(nll, 'cascade') is None
  assert gap_closed(nll | {'shuffled_audio': None}, 'audio') is None
  assert gap_closed(nll | {'shuffled_audio': 0.5}, 'audio') is None
