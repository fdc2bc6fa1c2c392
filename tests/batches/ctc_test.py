# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.token_tables import min_frames
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.models.ctc import BLANK
from acl_jax.training import losses
from data_pipeline.batches import BatchPlan, pad
from tests.tiny_source import TinySource, tokens_of

ctc = jax.jit(losses.ctc)


def encode(text):
  return [ord(letter) for letter in text]


def test_classes_are_the_tokens_that_occur():
  labels = CTCLabels.of_corpus(CorpusTokens.of_texts(['cab', 'bee'], encode))
  assert labels.vocabulary == encode('abce')
  assert labels(np.asarray(encode('abba'))).tolist() == [1, 2, 2, 1]
  assert BLANK not in labels(np.asarray(encode('cab')))
  other = CTCLabels(labels.vocabulary)  # an adapter without `d`
  assert other(np.asarray(encode('dad'))).tolist() == [1]


@given(st.lists(st.integers(1, 2), min_size=1, max_size=5))
def test_min_frames_is_the_fewest_with_a_ctc_alignment(labels):
  required = min_frames(labels)
  padded = pad([labels], (1, 5), BLANK, np.int32)
  logits = np.zeros((1, 10, 3), np.float32)
  assert ctc(logits, np.arange(10)[None] < required, padded) < 100
  assert ctc(logits, np.arange(10)[None] < required - 1, padded) > 1e5


def test_utterances_too_short_for_their_transcript_are_left_out():
  source = TinySource(['abc', 'aab', 'aab', ''], [5, 7, 8, 1])
  tokens = tokens_of(source, encode)
  labels = CTCLabels(encode('ab'))
  lengths = CTCBatchAssembler(source, labels, tokens, 2, 9, True).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  lengths = CTCBatchAssembler(source, labels, tokens, 3, 9, True).lengths()
  assert lengths.tolist() == [5, TOO_LONG, TOO_LONG, 1]
  lengths = CTCBatchAssembler(source, CTCLabels([]), tokens, 9, 9, False).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  # Letters have twice as many frames as tokens, and all of them are labels.
  source = TinySource(['zyxwv', 'zyxwv', 'wwwv'], [8, 9, 9])
  tokens = tokens_of(source, encode)
  lengths = CTCBatchAssembler(source, labels, tokens, 4, 9, True).lengths()
  assert lengths.tolist() == [TOO_LONG, 9, TOO_LONG]
  lengths = CTCBatchAssembler(source, labels, tokens, 4, 9, False).lengths()
  assert lengths.tolist() == [8, 9, 9]


def test_transcripts_that_cannot_be_written_are_left_out(caplog):
  def encode_some(text):
    if 'z' in text:
      raise ValueError('text has the token 301')
    return encode(text)

  source = TinySource(['ab', 'zb', 'a', 'xz'], [5, 7, 8, 9])
  tokens = tokens_of(source, encode_some)
  labels = CTCLabels.of_corpus(tokens)
  assert labels.vocabulary == encode('ab')
  prior = np.exp(labels.log_prior(tokens))
  np.testing.assert_allclose(prior, [1 / 2, 3 / 10, 2 / 10], rtol=1e-6)
  assembler = CTCBatchAssembler(source, labels, tokens, 2, 9, True)
  assert assembler.lengths().tolist() == [5, TOO_LONG, 8, TOO_LONG]
  assert '2 of 4 transcripts cannot be used' in caplog.text
  assert 'u3 is left out: text has the token 301' in caplog.text


def test_utterances_are_padded_to_the_shape_of_the_plan():
  source = TinySource(['ab', 'abcd', 'b'], [4, 9, 2])
  tokens = tokens_of(source, encode)
  labels = CTCLabels.of_corpus(tokens)
  assembler = CTCBatchAssembler(source, labels, tokens, 2, 9, True)
  batch = assembler(BatchPlan(((1,), (2,)), 3, 10, 10))
  assert batch.frames.shape == (3, 10, 3) and batch.frames.dtype == np.float32
  assert batch.segment_ids.sum(1).tolist() == [9, 2, 0]
  assert (batch.frame_index >= 0).sum((1, 2)).tolist() == [9, 2, 0]
  for i, value in enumerate((1.5, 2.5, 0)):
    expected = np.where(batch.segment_ids[i], value, 0)
    np.testing.assert_array_equal(batch.frames[i, :, 2], expected)
  assert batch.labels.tolist() == [[[1, 2, 3, 4, 0]], [[2, 0, 0, 0, 0]], [[0] * 5]]
  letters = [[1, 2, 3, 4] + [0] * 6], [[2] + [0] * 9], [[0] * 10]
  assert batch.letters.tolist() == list(letters)
  assert batch.candidates.tolist() == [0, 1, 2, 3]
  assert not batch.logit_correction.any()


def test_softmax_of_a_batch_has_its_own_tokens_and_a_sample_of_the_others():
  source = TinySource(['ab', 'dad', 'zyxwvut'], [4, 9, 20])
  tokens = tokens_of(source, encode)
  labels = CTCLabels.of_corpus(tokens)
  assembler = CTCBatchAssembler(
    source, labels, tokens, 2, sampled_classes=6, with_letters=True
  )
  plan = BatchPlan(((0,), (1,)), 2, 10, 10)
  batch = assembler(plan)
  tokens = [labels.vocabulary[i] for i in batch.candidates]
  assert len(set(tokens)) == 6 and set(encode('abd')) == set(tokens[:3])
  for row, text in zip(batch.labels[:, 0], ('ab', 'dad'), strict=True):
    assert [tokens[label - 1] for label in row if label] == encode(text)
  # Three sampled entries stand for the seven others.
  expected = [0] * 4 + [np.log(7 / 3)] * 3
  np.testing.assert_allclose(batch.logit_correction, expected, rtol=1e-6)
  np.testing.assert_array_equal(assembler(plan).candidates, batch.candidates)
  samples = [assembler(BatchPlan(((i,),), 2, 10, 10)).candidates for i in (0, 1)]
  assert tuple(samples[0]) != tuple(samples[1])


def test_a_batch_with_more_tokens_than_sampled_classes_is_refused():
  source = TinySource(['abc', 'dad', 'z'], [9, 9, 20])
  tokens = tokens_of(source, encode)
  labels = CTCLabels.of_corpus(tokens)
  assembler = CTCBatchAssembler(
    source, labels, tokens, 2, sampled_classes=3, with_letters=True
  )
  with pytest.raises(ValueError, match=r'\b4\b.*config\.ctc\.sampled_classes = 3\b'):
    assembler(BatchPlan(((0,), (1,)), 2, 10, 10))


def test_without_a_vocabulary_there_are_no_labels():
  source = TinySource(['ab', 'b'], [4, 9])
  assembler = CTCBatchAssembler(
    source, CTCLabels([]), tokens_of(source, encode), 2, 9, False
  )
  batch = assembler(BatchPlan(((1,), (0,)), 2, 10, 10))
  assert not batch.labels.any() and not batch.letters.any()
  assert batch.candidates.shape == (0,)
  assert batch.logit_correction.tolist() == [0]


def test_prior_is_the_smoothed_share_of_each_class():
  tokens = CorpusTokens.of_texts(['aab', 'b', 'ca'], encode)
  prior = np.exp(CTCLabels.of_corpus(tokens).log_prior(tokens))
  np.testing.assert_allclose(prior, [9 / 18, 4 / 18, 3 / 18, 2 / 18], rtol=1e-5)
