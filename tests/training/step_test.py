# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.models import whisper
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.models.spelling import token_letters
from acl_jax.text.layout import NO_AUDIO
from acl_jax.training import losses, step
from tests import tiny_llama

KEY = jax.random.key(0)
CTC_PARTS = ('ctc_tokens', 'ctc_letters')
FRAMES, STACK, WIDTH, VOCABULARY = 14, 2, 12, (7, 2, 9, 4, 11)
SLOTS = FRAMES // STACK
WHISPER = whisper.WhisperConfig(
  num_mel_bins=10,
  d_model=WIDTH,
  encoder_layers=1,
  encoder_attention_heads=2,
  encoder_ffn_dim=18,
  max_source_positions=20,
)
BOTH = step.ResponseLossConfig(
  kl_weight=0.5, kl_temperature=1.0, ctc_weight=0.3, remat='dots'
)


@functools.partial(jax.jit, static_argnames='kind')
def build(kind='ctc'):
  rngs = nnx.Rngs(0)
  if kind == 'ctc':
    config = CTCAdapterConfig(
      STACK, WIDTH, 20, 1, 16, 2, 3, 0.1, 24, len(VOCABULARY), 5
    )
    adapter = CTCAdapter(config, rngs=rngs)
    adapter.vocabulary[...] = jnp.asarray(VOCABULARY)
    adapter.spelling.letters[...] = jnp.asarray(
      token_letters(['a', ' to', 'o', '.', 'b'])
    )
  else:
    adapter = StrideAdapter(StrideAdapterConfig(STACK, WIDTH, 16, 24), rngs=rngs)
  return SpeechLLM(whisper.Whisper(WHISPER, rngs=rngs), adapter, tiny_llama.build())


def batch(rows=3, width=WIDTH, frames=FRAMES):
  """Two recordings of noise, an empty row, and the prompt `1 2 audio 3`."""
  rng = np.random.default_rng(0)
  full = np.arange(rows) < 2
  valid = np.arange(frames) < np.asarray([frames, frames - 4, 0][:rows])[:, None]
  labels = np.asarray([[2, 2, 5, 0], [1, 3, 0, 0], [0] * 4][:rows])
  x = rng.normal(size=(rows, frames, width)).astype(np.float32)
  candidates, correction = np.asarray([3, 0, 2, 4, 1]), np.zeros(6, np.float32)
  letters = np.asarray([[8, 9, 27, 1], [20, 0, 0, 0], [0] * 4][:rows], np.int32)
  ids, each = valid.astype(np.int32), np.arange(frames, dtype=np.int32)
  place = np.where(valid, each, NO_AUDIO)[:, None]
  labels = labels.astype(np.int32)[:, None]
  sound = AudioBatch(x, ids, place, labels, letters[:, None], candidates, correction)
  prefix = np.asarray([15, 33, 4], np.int32)
  response = np.asarray([[21, 5, 30], [8, 40, 0], [0, 0, 0]])[:rows]
  lengths = np.asarray([3, 2, 0])[:rows]
  tokens = np.zeros((rows, 16), np.int32)
  tokens[:, :2], tokens[:, 2 + SLOTS] = (1, 2), 3
  tokens[:, 3 + SLOTS : 5 + SLOTS] = response[:, :-1]
  place = np.full((rows, 16), NO_AUDIO, np.int32)
  place[:, 2 : 2 + SLOTS] = np.arange(SLOTS)
  read = (np.arange(16) < (2 + SLOTS + lengths)[:, None]) & full[:, None]
  # As from a greedy decode: the target is the likeliest of the teacher's tokens.
  teacher = np.sort(rng.normal(size=(rows, 3, 4)))[..., ::-1] + [2, 0, 0, 0]
  others = np.stack(
    [rng.permutation(np.setdiff1d(np.arange(50), t))[:3] for t in response.flat]
  )
  top_ids = np.concatenate([response[..., None], others.reshape(rows, 3, 3)], axis=-1)
  return sound, ResponseBatch(
    prefix,
    Prompt(tokens, place, read.astype(np.int32)),
    response.astype(np.int32)[:, None],
    np.tile(np.arange(3) + 2 + SLOTS, (rows, 1, 1)).astype(np.int32),
    (np.arange(3) < lengths[:, None, None]).astype(np.float32),
    top_ids.astype(np.int32)[:, None],
    np.log(0.9 * np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)).astype(
      np.float16
    )[:, None],
  )


# A loss at one point, compiled.
evaluate = jax.jit(
  lambda model, data, loss: loss(model, data, KEY), static_argnames='loss'
)


def losses_of(kind):
  ctc = functools.partial(step.ctc_loss, encoder_trains=False)
  response = functools.partial(step.response_loss, encoder_trains=False, how=BOTH)
  return {'ctc': (ctc, batch()[0]), 'response': (response, batch())}[kind]


def train(model, loss, data, steps, trains_encoder=False, rate=0.05):
  graphdef, trainable, frozen = nnx.split(
    model, step.trainable_filter(trains_encoder), ...
  )
  before = jax.tree.map(np.array, (trainable, frozen))
  optimizer = optax.adam(rate)
  state = step.TrainState(trainable, optimizer.init(trainable))
  history = []
  for number in range(steps):
    state, metrics = step.train_step(
      state,
      data,
      jax.random.fold_in(KEY, number),
      frozen,
      graphdef=graphdef,
      optimizer=optimizer,
      loss=loss,
    )
    history.append({name: float(value) for name, value in metrics.items()})
  return before, (state.trainable, frozen), history


@pytest.mark.parametrize(
  'kind, parts', [('ctc', CTC_PARTS), ('response', ('response_nll', 'kl', *CTC_PARTS))]
)
def test_the_adapter_learns_and_nothing_else_changes(kind, parts):
  """Five words can say little, so of the response stage the CTC part is watched."""
  loss, data = losses_of(kind)
  before, after, history = train(build(), loss, data, 20)
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  same = jax.tree.map(lambda a, b: bool((a == b).all()), before[0], after[0])
  assert not any(jax.tree.leaves(same))
  assert list(before[0]) == ['adapter'] and 'vocabulary' not in before[0]['adapter']
  assert set(history[0]) == {'loss', 'grad_norm', *parts}
  for part in CTC_PARTS:
    assert history[-1][part] < 0.1 * history[0][part]
  assert history[-1]['loss'] < history[0]['loss']


def test_the_loss_is_the_weighed_sum_of_its_parts():
  loss, data = losses_of('response')
  value, parts = evaluate(build(), data, loss=loss)
  ctc = sum(parts[part] for part in CTC_PARTS)
  expected = parts['response_nll'] + 0.5 * parts['kl'] + 0.3 * ctc
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  how = step.ResponseLossConfig(0.0, 1.0, 0.0, None)
  plain = functools.partial(step.response_loss, encoder_trains=False, how=how)
  value, parts = evaluate(build(), data, loss=plain)
  assert set(parts) == {'response_nll'} and value == parts['response_nll']


def test_a_stride_adapter_learns_responses():
  loss, data = losses_of('response')
  before, after, history = train(build('stride'), loss, data, 80)
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  assert set(history[0]) == {'loss', 'grad_norm', 'response_nll', 'kl'}
  for part in ('response_nll', 'kl'):
    assert history[-1][part] < 0.8 * history[0][part], part


def test_the_encoder_learns_if_asked():
  loss = functools.partial(step.response_loss, encoder_trains=True, how=BOTH)
  sound, response = batch(width=10, frames=2 * FRAMES)
  sound = sound._replace(
    segment_ids=np.repeat(batch()[0].segment_ids, 2, axis=1),
    frame_index=batch()[0].frame_index,
  )
  before, after, _ = train(build(), loss, (sound, response), 2, trains_encoder=True)
  assert set(before[0]) == {'adapter', 'encoder'}
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  was = dict(nnx.to_flat_state(before[0]['encoder']))
  for path, leaf in nnx.to_flat_state(after[0]['encoder']):
    changed = leaf[...] != was[path][...]
    # Positions that no recording reaches stay as they are.
    used = FRAMES if path == ('embed_positions',) else None
    assert changed[:used].any(), path
    assert used is None or not changed[used:].any()


def first_rows(data, count):
  """A batch without its last rows; `candidates`, `logit_correction`, `prefix` are of no row."""
  if isinstance(data, AudioBatch):
    of_rows = ('frames', 'segment_ids', 'frame_index', 'labels', 'letters')
    return data._replace(**{name: getattr(data, name)[:count] for name in of_rows})
  sound, response = data
  rows = jax.tree.map(lambda x: x[:count], response)
  return first_rows(sound, count), rows._replace(prefix=response.prefix)


def without_dropout(model):
  model.adapter.layers.dropout = model.adapter.letter_layers.dropout = 0.0


@pytest.mark.parametrize('kind', ['ctc', 'response'])
def test_empty_rows_change_nothing(kind):
  loss, data = losses_of(kind)
  # Without dropout: its mask depends on the shape of the batch.
  model = build()
  without_dropout(model)
  value, _ = evaluate(model, data, loss=loss)
  expected, _ = evaluate(model, first_rows(data, 2), loss=loss)
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_softmax_ranges_over_what_the_batch_names():
  """An entry that stands for e others has its logit raised by 1."""
  loss, sound = losses_of('ctc')
  model = build()
  without_dropout(model)
  labels = np.asarray([[[1, 1, 2, 0]], [[2, 1, 0, 0]], [[0] * 4]], np.int32)
  correction = np.asarray([0, 0, 0, 1], np.float32)
  fewer = sound._replace(
    labels=labels, candidates=np.asarray([4, 0, 3]), logit_correction=correction
  )
  value, parts = evaluate(model, fewer, loss=loss)
  table = model.llama.embed_tokens[...]
  valid = sound.segment_ids > 0
  scores = jax.jit(CTCAdapter.scores)(model.adapter, sound.frames, valid, table)
  logits = scores.tokens[..., np.asarray([0, 5, 1, 4])] + correction[None, None]
  expected = losses.ctc(logits, scores.valid, jnp.asarray(labels[:, 0]))
  np.testing.assert_allclose(parts['ctc_tokens'], expected, rtol=1e-5)
  letters = jnp.asarray(sound.letters[:, 0])
  letters = losses.ctc(scores.letters, scores.letters_valid, letters)
  np.testing.assert_allclose(parts['ctc_letters'], letters, rtol=1e-5)
  np.testing.assert_allclose(value, expected + letters, rtol=1e-5)


def test_gradients_stop_at_what_is_frozen():
  """Only the trainable sub-tree is differentiated: the LLM has no gradient at all."""
  loss, data = losses_of('response')
  graphdef, trainable, frozen = nnx.split(build(), step.trainable_filter(False), ...)

  def of(params, data):
    return loss(nnx.merge(graphdef, params, frozen), data, KEY)[0]

  gradient = jax.jit(jax.grad(of))(trainable, data)
  assert jax.tree.structure(gradient) == jax.tree.structure(trainable)
  assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_without_letters_only_tokens_count():
  config = CTCAdapterConfig(STACK, WIDTH, 0, 0, 16, 2, 3, 0.0, 24, len(VOCABULARY), 5)
  model = build()
  model.adapter = CTCAdapter(config, rngs=nnx.Rngs(0))
  sound = jax.tree.map(jnp.asarray, batch()[0])
  loss, parts = step.ctc_loss(model, sound, KEY, encoder_trains=False)
  assert set(parts) == {'ctc_tokens'} and loss == parts['ctc_tokens'] > 0
