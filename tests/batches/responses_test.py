# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax import build
from acl_jax.batches.ctc import CTCBatches, CTCLabels
from acl_jax.batches.responses import (
  PADDING_LOG_PROB,
  ResponseBatches,
  split_shared_prefix,
)
from acl_jax.decode_targets import decode_targets
from acl_jax.targets.prompting import TargetsConfig
from acl_jax.targets.store import Targets
from acl_jax.targets.transcripts import Transcript, Transcripts
from acl_jax.text.instructions import fill_audio
from acl_jax.text.layout import NO_AUDIO
from acl_jax.text.templates import Audio
from data_pipeline.batches import BatchPlan
from tests.tiny_source import Source
from tests.tiny_world import MAX_NEW_TOKENS, TEXTS, TOP_K, load_config


@pytest.fixture(scope='module')
def world(tiny_world):
  """The text side, the targets, and what assembles sounds."""
  text = build.load_text_frontend(load_config(tiny_world))
  targets = Targets(tiny_world / 'targets')
  source = Source(TEXTS[:-1], [15 + 2 * i for i in range(len(TEXTS) - 1)])
  labels = CTCLabels.of_corpus(TEXTS, text.tokenizer.encode)
  sounds = CTCBatches(source, labels, text.tokenizer.encode, 2, 10, True)
  return text, targets, sounds


BATCH = BatchPlan(((2,), (5,), (0,)), 4, 28, 28)


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
    place = np.full(len(response.prompt.audio_index[row]), NO_AUDIO)
    place[:slots] = np.arange(slots)
    np.testing.assert_array_equal(response.prompt.audio_index[row], place)
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
  batch = BatchPlan(((2, 5), (0,)), rows=3, length=60, longest=28, per_row=2)
  _, response = packed(batch)
  assert response.prompt.tokens.shape == (3, 90)
  for b, row in enumerate(batch.utterances):
    start = 0
    for k, i in enumerate(row):
      _, alone = ResponseBatches(sounds, text, targets, TOP_K)(
        BatchPlan(((i,),), 1, 28, 28)
      )
      count = int(alone.prompt.segment_ids.sum())
      assert packed.lengths()[i, 1] == count
      mine = slice(start, start + count)
      assert (response.prompt.segment_ids[b, mine] == k + 1).all()
      np.testing.assert_array_equal(
        response.prompt.tokens[b, mine], alone.prompt.tokens[0, :count]
      )
      place = alone.prompt.audio_index[0, :count]
      np.testing.assert_array_equal(
        response.prompt.audio_index[b, mine], np.where(place < 0, place, place + k * 14)
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
  other = CTCBatches(source, CTCLabels([]), text.tokenizer.encode, 2, 10, False)
  with pytest.raises(ValueError, match="'u0' answers 'yes'; the transcript is 'someth"):
    ResponseBatches(other, text, targets, 0)(BatchPlan(((0,),), 1, 28, 28))


def test_the_prefix_is_what_all_prompts_begin_with():
  assert split_shared_prefix([[(5, 6), 0, (7,)]]) == ((5, 6), [[0, (7,)]])
  assert split_shared_prefix([[0, (7,)]]) == ((), [[0, (7,)]])
  several = [(5, 6), 0, (7,)], [(5, 6, 8), 0], [(5, 9), 0, (7,)]
  rests = [[(6,), 0, (7,)], [(6, 8), 0], [(9,), 0, (7,)]]
  assert split_shared_prefix(several) == ((5,), rests)
  assert split_shared_prefix([*several, [0, (5,)]]) == ((), [*several, [0, (5,)]])


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
      assert (response.top_log_probs[row, 0, u:] == PADDING_LOG_PROB).all()
  _, response = ResponseBatches(sounds, text, targets, 0)(BATCH)
  assert response.top_ids.shape == (4, 1, MAX_NEW_TOKENS, 0)


def test_more_of_the_teacher_than_was_stored_is_refused(world):
  text, targets, sounds = world
  with pytest.raises(
    ValueError, match='the targets hold 3 tokens of the teacher, not 4'
  ):
    ResponseBatches(sounds, text, targets, TOP_K + 1)


def test_a_recording_stands_where_its_instruction_says(tiny_world, world, tmp_path):
  text, _, sounds = world
  config = load_config(tiny_world)
  weighed = (('{}', 1.0), ('Say it again: {}', 1.0), ('Is {} true?', 1.0))
  said = map(Transcript, sounds.source.ids, sounds.source.texts)
  decode_targets(
    build.load_frozen_llama(config),
    text,
    Transcripts(said, 512),
    tmp_path,
    TargetsConfig(200, MAX_NEW_TOKENS, 4, seed=0, instructions=weighed),
  )
  targets = Targets(tmp_path)
  batches = ResponseBatches(sounds, text, targets, 0)
  met = set()
  for i, id in enumerate(sounds.source.ids):
    _, response = batches(BatchPlan(((i,),), 1, 29, 29))
    instruction = targets[id]['instruction']
    met.add(instruction)
    before, clip, after = text.prompt(fill_audio(instruction, Audio(0)))
    slots = -(-int(sounds.source.lengths[i]) // 2)
    answer = targets[id]['response'].tolist()
    expected = [*before, *[0] * slots, *after, *answer[:-1]]
    count = int(response.prompt.segment_ids.sum())
    tokens = [*response.prefix, *response.prompt.tokens[0, :count]]
    assert clip == 0 and tokens == expected
    assert batches.lengths()[i, 1] == count
  assert met == {instruction for instruction, _ in weighed}
