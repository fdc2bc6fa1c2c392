# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import shutil

import numpy as np
import pytest

from acl_jax import build
from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.responses import (
  PADDING_LOG_PROB,
  ResponseBatchAssembler,
  open_targets,
  split_shared_prefix,
)
from acl_jax.batches.tokens import CorpusTokens
from acl_jax.decode_targets import decode_targets
from acl_jax.targets.prompting import Decoding
from acl_jax.targets.store import Targets
from acl_jax.targets.transcripts import Transcript, Transcripts
from acl_jax.text.instructions import fill_audio
from acl_jax.text.layout import NO_AUDIO
from acl_jax.text.templates import Audio
from data_pipeline.batches import BatchPlan
from tests.tiny_source import TinySource, tokens_of
from tests.tiny_world import MAX_NEW_TOKENS, TEXTS, TOP_K, load_config


@pytest.fixture(scope='module')
def world(tiny_world):
  """The text frontend, the targets, and the assembler of the CTC stage."""
  config = load_config(tiny_world)
  text = build.load_text_frontend(config.llama, config.template)
  targets = Targets(tiny_world / 'targets')
  source = TinySource(TEXTS[:-1], [15 + 2 * i for i in range(len(TEXTS) - 1)])
  encode = text.tokenizer.encode
  labels = CTCLabels.of_corpus(CorpusTokens.of_texts(TEXTS, encode))
  tokens = tokens_of(source, encode)
  ctc_batches = CTCBatchAssembler(source, labels, tokens, 2, 10, True)
  return text, targets, ctc_batches


BATCH = BatchPlan(((2,), (5,), (0,)), 4, 28, 28)


def test_a_row_is_the_prompt_with_its_audio_positions_then_the_response(world):
  text, targets, ctc_batches = world
  _, response = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K)(BATCH)
  before, clip, after = text.audio_prompt()
  assert response.shared_prefix.tolist() == list(before)
  length = response.prompt.tokens.shape[1]
  assert clip == 0 and length % 8 == 0
  for row, i in enumerate(BATCH.indices):
    answer = targets[f'u{i}']['response'].tolist()
    num_embeddings = -(-int(ctc_batches.source.lengths[i]) // 2)
    start = num_embeddings + len(after)
    tokens = [*[0] * num_embeddings, *after, *answer[:-1]]
    assert response.prompt.segment_ids[row].sum() == len(tokens)
    assert response.prompt.tokens[row, : len(tokens)].tolist() == tokens
    audio_index = np.full(len(response.prompt.audio_index[row]), NO_AUDIO)
    audio_index[:num_embeddings] = np.arange(num_embeddings)
    np.testing.assert_array_equal(response.prompt.audio_index[row], audio_index)
    # The hidden state at `index` depends on the prompt and the targets before this one.
    index = response.index[row, 0][: len(answer)]
    assert index.tolist() == list(range(start - 1, start - 1 + len(answer)))
    assert response.targets[row, 0, : len(answer)].tolist() == answer
    assert response.weight[row, 0].tolist() == [
      float(j < len(answer)) for j in range(MAX_NEW_TOKENS)
    ]
  assert not response.prompt.segment_ids[3].any() and not response.weight[3].any()


def test_responses_beyond_the_embedding_are_refused(world):
  text, targets, ctc_batches = world
  tokenizer = dataclasses.replace(text.tokenizer, num_embeddings=290)
  assembler = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K)
  assembler.check_embedded = tokenizer.check_embedded
  with pytest.raises(ValueError, match=r"response to 'u\d' has the token (29|3)\d"):
    assembler(BATCH)


def test_packed_prompts_equal_prompts_in_rows_of_their_own(world):
  text, targets, ctc_batches = world
  packed = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K, row_tokens=90)
  batch = BatchPlan(((2, 5), (0,)), rows=3, length=60, max_frames=28, max_per_row=2)
  _, response = packed(batch)
  assert response.prompt.tokens.shape == (3, 90)
  for b, row in enumerate(batch.utterances):
    start = 0
    for k, i in enumerate(row):
      _, alone = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K)(
        BatchPlan(((i,),), 1, 28, 28)
      )
      count = int(alone.prompt.segment_ids.sum())
      assert packed.lengths()[i, 1] == count
      segment = slice(start, start + count)
      assert (response.prompt.segment_ids[b, segment] == k + 1).all()
      np.testing.assert_array_equal(
        response.prompt.tokens[b, segment], alone.prompt.tokens[0, :count]
      )
      audio_index = alone.prompt.audio_index[0, :count]
      np.testing.assert_array_equal(
        response.prompt.audio_index[b, segment],
        np.where(audio_index < 0, audio_index, audio_index + k * 14),
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
  text, targets, ctc_batches = world
  source = TinySource(['something else'], [15], ['u0'])
  tokens = tokens_of(source, text.tokenizer.encode)
  other = CTCBatchAssembler(source, CTCLabels([]), tokens, 2, 10, False)
  with pytest.raises(ValueError, match="'u0' .*'yes'.*'something else'"):
    ResponseBatchAssembler(other, text, targets, 0)(BatchPlan(((0,),), 1, 28, 28))


def copy_targets(world_folder, tmp_path):
  """Return a copy of the targets that may be changed, and its provenance."""
  folder = tmp_path / 'targets'
  shutil.copytree(world_folder / 'targets', folder)
  return folder, json.loads((folder / 'provenance.json').read_text())


def test_targets_of_other_utterances_are_refused(tiny_world, world, tmp_path):
  text, _, ctc_batches = world
  folder, provenance = copy_targets(tiny_world, tmp_path)
  data = load_config(tiny_world, **{'data.targets': str(folder)}).data
  ids = ctc_batches.source.ids
  targets = open_targets(data, provenance['llm'], text)
  assert list(targets) == ids
  ResponseBatchAssembler(ctc_batches, text, targets, 0)
  for path in folder.glob('targets-*'):
    path.write_bytes(path.read_bytes().replace(b'"u', b'"x'))
  with pytest.raises(ValueError, match=rf'^{folder}: .*\b{len(ids)}\b'):
    targets = open_targets(data, provenance['llm'], text)
    ResponseBatchAssembler(ctc_batches, text, targets, 0)


@pytest.mark.parametrize('key', ['llm', 'template'])
def test_targets_of_another_llm_or_template_are_refused(
  tiny_world, world, tmp_path, key
):
  text, _, ctc_batches = world
  folder, provenance = copy_targets(tiny_world, tmp_path)
  llm = dict(provenance['llm'])
  provenance[key]['sha256'] = 'f00'
  (folder / 'provenance.json').write_text(json.dumps(provenance))
  data = load_config(tiny_world, **{'data.targets': str(folder)}).data
  with pytest.raises(ValueError, match=f'^{folder}: .*{key}.sha256 "f00"'):
    open_targets(data, llm, text)


def test_prompts_beyond_the_context_are_left_out_and_counted(world, caplog):
  text, targets, ctc_batches = world
  assembler = ResponseBatchAssembler(ctc_batches, text, targets, TOP_K)
  lengths = assembler.lengths()
  tokens = len(assembler.shared_prefix) + lengths[:, 1]
  longest = int(tokens[lengths[:, 1] < TOO_LONG].max())
  np.testing.assert_array_equal(assembler.fit_context(lengths, longest), lengths)
  assert not caplog.records
  fitting = assembler.fit_context(lengths, longest - 1)
  left_out = tokens == longest
  assert (fitting[left_out] == TOO_LONG).all()
  np.testing.assert_array_equal(fitting[~left_out], lengths[~left_out])
  assert f'{left_out.sum()} of {len(lengths)} utterances' in caplog.text
  assert f'up to {longest} tokens' in caplog.text and f'is {longest - 1}' in caplog.text


def test_the_shared_prefix_is_the_longest_common_start_of_the_prompts():
  assert split_shared_prefix([[(5, 6), 0, (7,)]]) == ((5, 6), [[0, (7,)]])
  assert split_shared_prefix([[0, (7,)]]) == ((), [[0, (7,)]])
  several = [(5, 6), 0, (7,)], [(5, 6, 8), 0], [(5, 9), 0, (7,)]
  rests = [[(6,), 0, (7,)], [(6, 8), 0], [(9,), 0, (7,)]]
  assert split_shared_prefix(several) == ((5,), rests)
  assert split_shared_prefix([*several, [0, (5,)]]) == ((), [*several, [0, (5,)]])


def test_batches_have_the_top_tokens_of_the_teacher(world):
  text, targets, ctc_batches = world
  for k in (TOP_K, 2):
    _, response = ResponseBatchAssembler(ctc_batches, text, targets, k)(BATCH)
    for row, i in enumerate(BATCH.indices):
      u = len(targets[f'u{i}']['response'])
      for name in ('top_ids', 'top_log_probs'):
        actual = getattr(response, name)[row, 0]
        assert actual.shape == (MAX_NEW_TOKENS, k)
        np.testing.assert_array_equal(actual[:u], targets[f'u{i}'][name][:, :k])
      assert (response.top_log_probs[row, 0, u:] == PADDING_LOG_PROB).all()
  _, response = ResponseBatchAssembler(ctc_batches, text, targets, 0)(BATCH)
  assert response.top_ids.shape == (4, 1, MAX_NEW_TOKENS, 0)


def test_more_top_tokens_than_are_stored_are_refused(world):
  text, targets, ctc_batches = world
  with pytest.raises(ValueError, match=r'\b3\b.*config\.targets\.top_k is 4\b'):
    ResponseBatchAssembler(ctc_batches, text, targets, TOP_K + 1)


def test_instructions_place_the_audio(tiny_world, world, tmp_path):
  text, _, ctc_batches = world
  config = load_config(tiny_world)
  instructions = (('{}', 1.0), ('Say it again: {}', 1.0), ('Is {} true?', 1.0))
  transcripts = map(Transcript, ctc_batches.source.ids, ctc_batches.source.texts)
  decode_targets(
    build.load_frozen_llama(config.llama),
    text,
    Transcripts(transcripts, 512),
    tmp_path,
    Decoding(dataclasses.replace(config.targets, instructions=instructions), seed=0),
  )
  targets = Targets(tmp_path)
  assembler = ResponseBatchAssembler(ctc_batches, text, targets, 0)
  seen = set()
  for i, id in enumerate(ctc_batches.source.ids):
    _, response = assembler(BatchPlan(((i,),), 1, 29, 29))
    instruction = targets[id]['instruction']
    seen.add(instruction)
    before, clip, after = text.prompt(fill_audio(instruction, Audio(0)))
    num_embeddings = -(-int(ctc_batches.source.lengths[i]) // 2)
    answer = targets[id]['response'].tolist()
    expected = [*before, *[0] * num_embeddings, *after, *answer[:-1]]
    count = int(response.prompt.segment_ids.sum())
    tokens = [*response.shared_prefix, *response.prompt.tokens[0, :count]]
    assert clip == 0 and tokens == expected
    assert assembler.lengths()[i, 1] == count
  assert seen == {instruction for instruction, _ in instructions}
