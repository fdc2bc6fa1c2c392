# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.batches.ctc import CTCBatches, CTCLabels, min_frames
from acl_jax.batches.orders import TOO_LONG
from acl_jax.models.ctc import BLANK
from acl_jax.training import losses
from data_pipeline.batches import BatchPlan, pad
from tests.tiny_source import Source

ctc = jax.jit(losses.ctc)


def encode(text):
  return [ord(letter) for letter in text]


def test_labels_are_the_tokens_that_occur():
  labels = CTCLabels.of_corpus(['cab', 'bee'], encode)
  assert labels.vocabulary == encode('abce')
  assert labels(encode('abba')) == [1, 2, 2, 1]
  assert BLANK not in labels(encode('cab'))
  assert CTCLabels(labels.vocabulary)(encode('dad')) == [1]  # of an adapter without a d


@given(st.lists(st.integers(1, 2), min_size=1, max_size=5))
def test_frames_needed_are_the_fewest_in_which_ctc_can_write(labels):
  needed = min_frames(labels)
  padded = pad([labels], (1, 5), BLANK, np.int32)
  valid = np.arange(10)[None] < needed
  assert ctc(np.zeros((1, 10, 3), np.float32), valid, padded) < 100
  valid = np.arange(10)[None] < needed - 1
  assert ctc(np.zeros((1, 10, 3), np.float32), valid, padded) > 1e5


def test_recordings_too_short_for_their_transcript_have_no_place():
  source = Source(['abc', 'aab', 'aab', ''], [5, 7, 8, 1])
  labels = CTCLabels(encode('ab'))
  lengths = CTCBatches(source, labels, encode, 2, 9, True).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  lengths = CTCBatches(source, labels, encode, 3, 9, True).lengths()
  assert lengths.tolist() == [5, TOO_LONG, TOO_LONG, 1]
  lengths = CTCBatches(source, CTCLabels([]), encode, 9, 9, False).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  # Of the letters every one counts, at half the stack.
  source = Source(['zyxwv', 'zyxwv', 'wwwv'], [8, 9, 9])
  lengths = CTCBatches(source, labels, encode, 4, 9, True).lengths()
  assert lengths.tolist() == [TOO_LONG, 9, TOO_LONG]
  lengths = CTCBatches(source, labels, encode, 4, 9, False).lengths()
  assert lengths.tolist() == [8, 9, 9]


def test_sounds_are_padded_to_the_batch():
  source = Source(['ab', 'abcd', 'b'], [4, 9, 2])
  labels = CTCLabels.of_corpus(source.texts, encode)
  sounds = CTCBatches(source, labels, encode, 2, 9, True)
  batch = BatchPlan(((1,), (2,)), 3, 10, 10)
  frames, segment_ids, place, labels, letters, candidates, correction = sounds(batch)
  assert frames.shape == (3, 10, 3) and frames.dtype == np.float32
  assert segment_ids.sum(1).tolist() == [9, 2, 0]
  assert (place >= 0).sum((1, 2)).tolist() == [9, 2, 0]
  for i, value in enumerate((1.5, 2.5, 0)):
    np.testing.assert_array_equal(frames[i, :, 2], np.where(segment_ids[i], value, 0))
  assert labels.tolist() == [[[1, 2, 3, 4, 0]], [[2, 0, 0, 0, 0]], [[0] * 5]]
  assert letters.tolist() == [[[1, 2, 3, 4] + [0] * 6], [[2] + [0] * 9], [[0] * 10]]
  assert candidates.tolist() == [0, 1, 2, 3] and not correction.any()


def test_a_batch_ranges_over_its_own_tokens_and_some_others():
  source = Source(['ab', 'dad', 'zyxwvut'], [4, 9, 20])
  vocabulary = CTCLabels.of_corpus(source.texts, encode)
  sounds = CTCBatches(source, vocabulary, encode, 2, sampled_classes=6, spelt=True)
  batch = BatchPlan(((0,), (1,)), 2, 10, 10)
  _, _, _, labels, _, candidates, correction = sounds(batch)
  words = [vocabulary.vocabulary[i] for i in candidates]
  assert len(set(words)) == 6 and set(encode('abd')) == set(words[:3])
  for row, text in zip(labels[:, 0], ('ab', 'dad'), strict=True):
    assert [words[label - 1] for label in row if label] == encode(text)
  # Three of the seven others stand for all of them.
  np.testing.assert_allclose(correction, [0] * 4 + [np.log(7 / 3)] * 3, rtol=1e-6)
  again = sounds(batch)
  np.testing.assert_array_equal(again.candidates, candidates)
  drawn = {tuple(sounds(BatchPlan(((i,),), 2, 10, 10)).candidates) for i in (0, 1)}
  assert len(drawn) == 2


def test_more_tokens_in_a_batch_than_may_be_are_refused():
  source = Source(['abc', 'dad', 'z'], [9, 9, 20])
  labels = CTCLabels.of_corpus(source.texts, encode)
  sounds = CTCBatches(source, labels, encode, 2, sampled_classes=3, spelt=True)
  with pytest.raises(
    ValueError, match='a batch holds 4 different tokens; config.ctc.s'
  ):
    sounds(BatchPlan(((0,), (1,)), 2, 10, 10))


def test_without_classes_there_are_no_labels():
  sounds = CTCBatches(Source(['ab', 'b'], [4, 9]), CTCLabels([]), encode, 2, 9, False)
  sound = sounds(BatchPlan(((1,), (0,)), 2, 10, 10))
  assert not sound.labels.any() and not sound.letters.any()
  assert sound.candidates.shape == (0,)
  assert sound.logit_correction.tolist() == [0]


def test_the_prior_is_the_share_of_each_class():
  labels = CTCLabels.of_corpus(['aab', 'b', 'ca'], encode)
  prior = np.exp(labels.log_prior(['aab', 'b', 'ca'], encode))
  np.testing.assert_allclose(prior, [9 / 18, 4 / 18, 3 / 18, 2 / 18], rtol=1e-5)
