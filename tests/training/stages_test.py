# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax import assembly
from acl_jax.decoding.targets import Targets
from acl_jax.models.ctc import BLANK
from acl_jax.training import losses
from acl_jax.training.orders import NO_PLACE
from acl_jax.training.stages import (
  UNLIKELY,
  Labels,
  ResponseBatches,
  SoundBatches,
  frames_needed,
  split_prefix,
)
from data_pipeline.batches import NO_AUDIO, Batch, pad
from tests.tiny_world import MAX_NEW_TOKENS, TEXTS, TOP_K, load_config

ctc = jax.jit(losses.ctc)


def encode(text):
  return [ord(letter) for letter in text]


class Source:
  """Encoded recordings in memory."""

  subsampling = 1

  def __init__(self, texts, lengths, ids=None):
    self.texts, self.lengths = list(texts), np.asarray(lengths)
    self.ids = ids or [f'u{i}' for i in range(len(self.texts))]

  def read(self, indices, epoch):
    assert epoch == 0
    for i in indices:
      frames = np.full((self.lengths[i], 3), i + 0.5, np.float16)
      yield {'id': self.ids[i], 'text': self.texts[i], 'frames': frames}


def test_labels_are_the_tokens_that_occur():
  labels = Labels.of_corpus(['cab', 'bee'], encode)
  assert labels.vocabulary == encode('abce')
  assert labels(encode('abba')) == [1, 2, 2, 1]
  assert BLANK not in labels(encode('cab'))
  assert Labels(labels.vocabulary)(encode('dad')) == [1]  # of an adapter without a d


@given(st.lists(st.integers(1, 2), min_size=1, max_size=5))
def test_frames_needed_are_the_fewest_in_which_ctc_can_write(labels):
  needed = frames_needed(labels)
  padded = pad([labels], (1, 5), BLANK, np.int32)
  valid = np.arange(10)[None] < needed
  assert ctc(np.zeros((1, 10, 3), np.float32), valid, padded) < 100
  valid = np.arange(10)[None] < needed - 1
  assert ctc(np.zeros((1, 10, 3), np.float32), valid, padded) > 1e5


def test_recordings_too_short_for_their_transcript_have_no_place():
  source = Source(['abc', 'aab', 'aab', ''], [5, 7, 8, 1])
  labels = Labels(encode('ab'))
  lengths = SoundBatches(source, labels, encode, 2, 9, True).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  lengths = SoundBatches(source, labels, encode, 3, 9, True).lengths()
  assert lengths.tolist() == [5, NO_PLACE, NO_PLACE, 1]
  lengths = SoundBatches(source, Labels([]), encode, 9, 9, False).lengths()
  assert lengths.tolist() == [5, 7, 8, 1]
  # Of the letters every one counts, at half the stack.
  source = Source(['zyxwv', 'zyxwv', 'wwwv'], [8, 9, 9])
  lengths = SoundBatches(source, labels, encode, 4, 9, True).lengths()
  assert lengths.tolist() == [NO_PLACE, 9, NO_PLACE]
  lengths = SoundBatches(source, labels, encode, 4, 9, False).lengths()
  assert lengths.tolist() == [8, 9, 9]


def test_sounds_are_padded_to_the_batch():
  source = Source(['ab', 'abcd', 'b'], [4, 9, 2])
  labels = Labels.of_corpus(source.texts, encode)
  sounds = SoundBatches(source, labels, encode, 2, 9, True)
  batch = Batch(((1,), (2,)), 3, 10, 10)
  frames, segment_ids, place, labels, letters, among, correction = sounds(batch)
  assert frames.shape == (3, 10, 3) and frames.dtype == np.float32
  assert segment_ids.sum(1).tolist() == [9, 2, 0]
  assert (place >= 0).sum((1, 2)).tolist() == [9, 2, 0]
  for i, value in enumerate((1.5, 2.5, 0)):
    np.testing.assert_array_equal(frames[i, :, 2], np.where(segment_ids[i], value, 0))
  assert labels.tolist() == [[[1, 2, 3, 4, 0]], [[2, 0, 0, 0, 0]], [[0] * 5]]
  assert letters.tolist() == [[[1, 2, 3, 4] + [0] * 6], [[2] + [0] * 9], [[0] * 10]]
  assert among.tolist() == [0, 1, 2, 3] and not correction.any()


def test_a_batch_ranges_over_its_own_tokens_and_some_others():
  source = Source(['ab', 'dad', 'zyxwvut'], [4, 9, 20])
  vocabulary = Labels.of_corpus(source.texts, encode)
  sounds = SoundBatches(source, vocabulary, encode, 2, sampled_classes=6, spelt=True)
  batch = Batch(((0,), (1,)), 2, 10, 10)
  _, _, _, labels, _, among, correction = sounds(batch)
  words = [vocabulary.vocabulary[i] for i in among]
  assert len(set(words)) == 6 and set(encode('abd')) == set(words[:3])
  for row, text in zip(labels[:, 0], ('ab', 'dad'), strict=True):
    assert [words[label - 1] for label in row if label] == encode(text)
  # Three of the seven others stand for all of them.
  np.testing.assert_allclose(correction, [0] * 4 + [np.log(7 / 3)] * 3, rtol=1e-6)
  again = sounds(batch)
  np.testing.assert_array_equal(again.among, among)
  drawn = {tuple(sounds(Batch(((i,),), 2, 10, 10)).among) for i in (0, 1)}
  assert len(drawn) == 2


def test_more_tokens_in_a_batch_than_may_be_are_refused():
  source = Source(['abc', 'dad', 'z'], [9, 9, 20])
  labels = Labels.of_corpus(source.texts, encode)
  sounds = SoundBatches(source, labels, encode, 2, sampled_classes=3, spelt=True)
  with pytest.raises(
    ValueError, match='a batch holds 4 different tokens; config.ctc.s'
  ):
    sounds(Batch(((0,), (1,)), 2, 10, 10))


def test_without_classes_there_are_no_labels():
  sounds = SoundBatches(Source(['ab', 'b'], [4, 9]), Labels([]), encode, 2, 9, False)
  sound = sounds(Batch(((1,), (0,)), 2, 10, 10))
  assert not sound.labels.any() and not sound.letters.any()
  assert sound.among.shape == (0,)
  assert sound.correction.tolist() == [0]


def test_the_prior_is_the_share_of_each_class():
  labels = Labels.of_corpus(['aab', 'b', 'ca'], encode)
  prior = np.exp(labels.log_prior(['aab', 'b', 'ca'], encode))
  np.testing.assert_allclose(prior, [9 / 18, 4 / 18, 3 / 18, 2 / 18], rtol=1e-5)


@pytest.fixture(scope='module')
def world(tiny_world):
  """The text side, the targets, and what assembles sounds."""
  text = assembly.load_text(load_config(tiny_world))
  targets = Targets(tiny_world / 'targets')
  source = Source(TEXTS[:-1], [15 + 2 * i for i in range(len(TEXTS) - 1)])
  labels = Labels.of_corpus(TEXTS, text.tokenizer.encode)
  sounds = SoundBatches(source, labels, text.tokenizer.encode, 2, 10, True)
  return text, targets, sounds


BATCH = Batch(((2,), (5,), (0,)), 4, 28, 28)


def test_a_row_is_the_prompt_with_places_for_the_audio_then_the_response(world):
  text, targets, sounds = world
  _, response = ResponseBatches(sounds, text, targets, TOP_K)(BATCH)
  before, clip, after = text.spoken()
  assert response.prefix.tolist() == list(before)
  length = response.prompt.tokens.shape[1]
  assert clip == 0 and length % 8 == 0
  for row, i in enumerate(BATCH.indices):
    answer = targets[f'u{i}']['response'].tolist()
    slots = -(-int(sounds.source.lengths[i]) // 2)
    start = slots + len(after)
    tokens = [*[0] * slots, *after, *answer[:-1]]
    assert response.prompt.segment_ids[row].sum() == len(tokens)
    assert response.prompt.tokens[row, : len(tokens)].tolist() == tokens
    place = np.full(len(response.prompt.place[row]), NO_AUDIO)
    place[:slots] = np.arange(slots)
    np.testing.assert_array_equal(response.prompt.place[row], place)
    # The hidden state at `index` has read the prompt and the response before it.
    index = response.index[row, 0][: len(answer)]
    assert index.tolist() == list(range(start - 1, start - 1 + len(answer)))
    assert response.targets[row, 0, : len(answer)].tolist() == answer
    assert response.weight[row, 0].tolist() == [
      float(j < len(answer)) for j in range(MAX_NEW_TOKENS)
    ]
  assert not response.prompt.segment_ids[3].any() and not response.weight[3].any()


def test_prompts_in_a_row_are_those_of_rows_of_their_own(world):
  text, targets, sounds = world
  packed = ResponseBatches(sounds, text, targets, TOP_K, row_tokens=90)
  batch = Batch(((2, 5), (0,)), rows=3, length=60, longest=28, per_row=2)
  _, response = packed(batch)
  assert response.prompt.tokens.shape == (3, 90)
  for b, row in enumerate(batch.recordings):
    start = 0
    for k, i in enumerate(row):
      _, alone = ResponseBatches(sounds, text, targets, TOP_K)(
        Batch(((i,),), 1, 28, 28)
      )
      count = int(alone.prompt.segment_ids.sum())
      assert packed.lengths()[i, 1] == count
      mine = slice(start, start + count)
      assert (response.prompt.segment_ids[b, mine] == k + 1).all()
      np.testing.assert_array_equal(
        response.prompt.tokens[b, mine], alone.prompt.tokens[0, :count]
      )
      place = alone.prompt.place[0, :count]
      np.testing.assert_array_equal(
        response.prompt.place[b, mine], np.where(place < 0, place, place + k * 14)
      )
      u = int(alone.weight.sum())
      np.testing.assert_array_equal(
        response.index[b, k, :u], alone.index[0, 0, :u] + start
      )
      for name in ('targets', 'weight', 'top_ids', 'top_log_probs'):
        np.testing.assert_array_equal(
          getattr(response, name)[b, k], getattr(alone, name)[0, 0]
        )
      start += count
  assert not response.weight[1, 1].any() and not response.weight[2].any()


def test_responses_to_another_transcript_are_refused(world):
  text, targets, sounds = world
  source = Source(['something else'], [15], ['u0'])
  other = SoundBatches(source, Labels([]), text.tokenizer.encode, 2, 10, False)
  with pytest.raises(ValueError, match="'u0' answers 'yes'; the transcript is 'someth"):
    ResponseBatches(other, text, targets, 0)(Batch(((0,),), 1, 28, 28))


def test_the_prefix_ends_where_the_recording_starts():
  assert split_prefix([(5, 6), 0, (7,)]) == ((5, 6), [0, (7,)])
  assert split_prefix([0, (7,)]) == ((), [0, (7,)])


def test_a_row_carries_what_the_teacher_found_likely(world):
  text, targets, sounds = world
  for k in (TOP_K, 2):
    _, response = ResponseBatches(sounds, text, targets, k)(BATCH)
    for row, i in enumerate(BATCH.indices):
      u = len(targets[f'u{i}']['response'])
      for name in ('top_ids', 'top_log_probs'):
        ours = getattr(response, name)[row, 0]
        assert ours.shape == (MAX_NEW_TOKENS, k)
        np.testing.assert_array_equal(ours[:u], targets[f'u{i}'][name][:, :k])
      assert (response.top_log_probs[row, 0, u:] == UNLIKELY).all()
  _, response = ResponseBatches(sounds, text, targets, 0)(BATCH)
  assert response.top_ids.shape == (4, 1, MAX_NEW_TOKENS, 0)


def test_more_of_the_teacher_than_was_stored_is_refused(world):
  text, targets, sounds = world
  with pytest.raises(
    ValueError, match='the targets hold 3 tokens of the teacher, not 4'
  ):
    ResponseBatches(sounds, text, targets, TOP_K + 1)
