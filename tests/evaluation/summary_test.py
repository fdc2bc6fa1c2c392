# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.evaluation.scores import Score
from acl_jax.evaluation.summary import agreement, gap_closed, mean_nll, word_error_rate


def scored(nll, best=None):
  best = np.zeros(len(nll), int) if best is None else np.asarray(best)
  return Score(np.asarray(nll, np.float32), best)


def test_every_token_counts_the_same():
  assert mean_nll([scored([1, 1, 1]), scored([5])]) == 2
  text = [scored([0, 0, 0], [4, 5, 6]), scored([0], [7])]
  audio = [scored([0, 0, 0], [4, 5, 1]), scored([0], [1])]
  assert agreement(audio, text) == 0.5


def test_what_is_no_number_is_no_result():
  with pytest.raises(ValueError, match='no numbers'):
    mean_nll([scored([1, np.nan])])


def test_word_errors_are_pooled_and_normalised():
  said = ["It's the colour of 20 dollars!", 'Hmm, yes.']
  heard = ['it is the color of $20', 'no']
  assert word_error_rate(said, heard) == pytest.approx(1 / 7)
  assert word_error_rate(said, [None, None]) is None
  assert word_error_rate(['Hmm.'], ['uh']) is None


def test_the_gap_goes_from_the_wrong_recording_to_the_text():
  nll = {'text': 1.0, 'audio': 1.5, 'cascade': None, 'shuffled_audio': 3.0}
  assert gap_closed(nll, 'audio') == 0.75
  assert gap_closed(nll, 'text') == 1 and gap_closed(nll, 'shuffled_audio') == 0
  assert gap_closed(nll, 'cascade') is None
  assert gap_closed(nll | {'shuffled_audio': None}, 'audio') is None
  assert gap_closed(nll | {'shuffled_audio': 0.5}, 'audio') is None
