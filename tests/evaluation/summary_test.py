# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.evaluation.scores import Score
from acl_jax.evaluation.summary import (
  gap_closed,
  greedy_agreement,
  mean_nll,
  word_error_rate,
)


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


def test_gap_closed_is_relative_to_shuffled_audio_and_text():
  nll = {'text': 1.0, 'audio': 1.5, 'cascade': None, 'shuffled_audio': 3.0}
  assert gap_closed(nll, 'audio') == 0.75
  assert gap_closed(nll, 'text') == 1 and gap_closed(nll, 'shuffled_audio') == 0
  assert gap_closed(nll, 'cascade') is None
  assert gap_closed(nll | {'shuffled_audio': None}, 'audio') is None
  assert gap_closed(nll | {'shuffled_audio': 0.5}, 'audio') is None
