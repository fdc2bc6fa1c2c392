# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.stages import OnPolicyConfig, ResponseStageConfig
from acl_jax.models import whisper
from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.lora import LoRAConfig, apply_lora
from acl_jax.models.speech_llm import Prompt, SpeechLLM
from acl_jax.models.spelling import token_letters
from acl_jax.text.layout import NO_AUDIO
from acl_jax.training import losses, step
from tests import tiny_llama
from tests.tiny_weights import draw

KEY = jax.random.key(0)
CTC_PARTS = ('ctc_tokens', 'ctc_letters')
FRAMES, STACK, WIDTH, VOCABULARY = 14, 2, 12, (7, 2, 9, 4, 11)
NUM_EMBEDDINGS = FRAMES // STACK
WHISPER = whisper.WhisperConfig(
  num_mel_bins=10,
  d_model=WIDTH,
  encoder_layers=1,
  encoder_attention_heads=2,
  encoder_ffn_dim=18,
  max_source_positions=20,
)
BOTH = parse(
  ResponseStageConfig,
  defaults.response_stage(kl_weight=0.5, ctc_weight=0.3, remat='dots').to_dict(),
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


def make_batch(width=WIDTH, frames=FRAMES):
  """Two utterances of noise, an empty row, and the prompt `1 2 audio 3`."""
  rng = np.random.default_rng(0)
  return make_audio_batch(rng, width, frames), make_response_batch(rng)


def make_log_mel_batch():
  """The utterances of `make_batch` as noise for the encoder."""
  log_mels, response = make_batch(width=10, frames=2 * FRAMES)
  encoded, _ = make_batch()
  audio = log_mels._replace(
    segment_ids=np.repeat(encoded.segment_ids, 2, axis=1),
    frame_index=encoded.frame_index,
  )
  return audio, response


def make_audio_batch(rng, width, frames):
  frame_mask = np.arange(frames) < np.asarray([frames, frames - 4, 0])[:, None]
  frame_index = np.where(frame_mask, np.arange(frames, dtype=np.int32), NO_AUDIO)
  return AudioBatch(
    frames=rng.normal(size=(3, frames, width)).astype(np.float32),
    segment_ids=frame_mask.astype(np.int32),
    frame_index=frame_index[:, None],
    labels=np.asarray([[[2, 2, 5, 0]], [[1, 3, 0, 0]], [[0] * 4]], np.int32),
    letters=np.asarray([[[8, 9, 27, 1]], [[20, 0, 0, 0]], [[0] * 4]], np.int32),
    candidates=np.asarray([3, 0, 2, 4, 1]),
    logit_correction=np.zeros(6, np.float32),
  )


def make_response_batch(rng):
  targets = np.asarray([[21, 5, 30], [8, 40, 0], [0, 0, 0]], np.int32)
  lengths = np.asarray([3, 2, 0])[:, None]
  first_target = 2 + NUM_EMBEDDINGS
  tokens = np.zeros((3, 16), np.int32)
  tokens[:, :2], tokens[:, first_target] = (1, 2), 3
  tokens[:, first_target + 1 : first_target + 3] = targets[:, :-1]
  audio_index = np.full((3, 16), NO_AUDIO, np.int32)
  audio_index[:, 2:first_target] = np.arange(NUM_EMBEDDINGS)
  token_mask = (np.arange(16) < first_target + lengths) & (lengths > 0)
  # As from greedy decoding: the target is the teacher's likeliest token.
  logits = np.sort(rng.normal(size=(3, 3, 4)))[..., ::-1] + [2, 0, 0, 0]
  probs = 0.9 * np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  others = np.stack(
    [rng.permutation(np.setdiff1d(np.arange(50), t))[:3] for t in targets.flat]
  )
  top_ids = np.concatenate([targets[..., None], others.reshape(3, 3, 3)], axis=-1)
  return ResponseBatch(
    shared_prefix=np.asarray([15, 33, 4], np.int32),
    prompt=Prompt(tokens, audio_index, token_mask.astype(np.int32)),
    targets=targets[:, None],
    index=np.tile(np.arange(3, dtype=np.int32) + first_target, (3, 1, 1)),
    weight=(np.arange(3) < lengths).astype(np.float32)[:, None],
    top_ids=top_ids.astype(np.int32)[:, None],
    top_log_probs=np.log(probs).astype(np.float16)[:, None],
  )


@functools.partial(jax.jit, static_argnames='loss')
def evaluate(model, batch, loss):
  return loss(model, batch, KEY)


@functools.cache  # the same object, so that tests share compilations
def loss_and_batch(stage):
  if stage == 'ctc':
    loss = functools.partial(step.ctc_loss, encoder_trains=False, blank_token=0)
    return loss, make_batch()[0]
  loss = functools.partial(step.response_loss, encoder_trains=False, stage=BOTH)
  return loss, make_batch()


def train(model, loss, batch, steps, trains='none'):
  """Return (trainable, frozen) before and after, the metrics, and Adam's first mean.

  The first mean is 0.1 times the gradient.
  """
  graphdef, trainable, frozen = nnx.split(model, step.trainable_filter(trains), ...)
  before = jax.tree.map(np.array, (trainable, frozen))
  optimizer = optax.adam(0.05)
  state = step.TrainState(trainable, optimizer.init(trainable))
  history, first_mean = [], None
  for number in range(steps):
    state, metrics = step.train_step(
      state,
      batch,
      jax.random.fold_in(KEY, number),
      frozen,
      graphdef=graphdef,
      optimizer=optimizer,
      loss=loss,
    )
    history.append({name: float(value) for name, value in metrics.items()})
    if first_mean is None:
      first_mean = jax.tree.map(np.array, state.optimizer[0].mu)
  return before, (state.trainable, frozen), history, first_mean


@pytest.mark.parametrize(
  'stage, parts', [('ctc', CTC_PARTS), ('response', ('response_nll', 'kl', *CTC_PARTS))]
)
def test_only_the_adapter_learns(stage, parts):
  """A vocabulary of five words limits the response loss, so check the CTC loss."""
  loss, batch = loss_and_batch(stage)
  before, after, history, first_mean = train(build(), loss, batch, 20)
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  # The frozen parameters have no gradient at all.
  assert jax.tree.structure(first_mean) == jax.tree.structure(before[0])
  if stage == 'response':
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(first_mean))
  same = jax.tree.map(lambda a, b: bool((a == b).all()), before[0], after[0])
  assert not any(jax.tree.leaves(same))
  assert list(before[0]) == ['adapter'] and 'vocabulary' not in before[0]['adapter']
  assert set(history[0]) == {'loss', 'grad_norm', *parts}
  for part in CTC_PARTS:
    assert history[-1][part] < 0.1 * history[0][part]
  assert history[-1]['loss'] < history[0]['loss']


def test_the_loss_is_the_weighted_sum_of_its_parts():
  loss, batch = loss_and_batch('response')
  value, parts = evaluate(build_without_dropout(), batch, loss=loss)
  ctc = sum(parts[part] for part in CTC_PARTS)
  expected = parts['response_nll'] + 0.5 * parts['kl'] + 0.3 * ctc
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  stage = parse(ResponseStageConfig, defaults.response_stage().to_dict())
  plain = functools.partial(step.response_loss, encoder_trains=False, stage=stage)
  value, parts = evaluate(build_without_dropout(), batch, loss=plain)
  assert set(parts) == {'response_nll'} and value == parts['response_nll']


def test_a_stride_adapter_learns_responses():
  loss, batch = loss_and_batch('response')
  before, after, history, _ = train(build('stride'), loss, batch, 80)
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  assert set(history[0]) == {'loss', 'grad_norm', 'response_nll', 'kl'}
  for part in ('response_nll', 'kl'):
    assert history[-1][part] < 0.8 * history[0][part], part


ON_POLICY = dict(
  weight=0.7,
  refresh_every=1,
  max_new_tokens=3,
  sampling=dict(temperature=1.0, top_k=0, top_p=1.0),
)


def compare_microbatches(stage, batch):
  """A step with the rows one by one equals the step with all of them."""
  results = []
  for count in (1, 3):
    stage = dataclasses.replace(stage, microbatches=count)
    loss = functools.partial(step.response_loss, encoder_trains=False, stage=stage)
    loss = loss_and_batch('response')[0] if stage == BOTH else loss
    results.append(train(build('stride'), loss, batch, 1))
  (_, _, [expected], gradient), (_, _, [actual], other) = results
  assert expected.keys() == actual.keys()
  for name, value in expected.items():
    assert actual[name] == pytest.approx(value, rel=1e-5), name
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
  assert scale > 0
  close = functools.partial(np.testing.assert_allclose, atol=1e-5 * scale)
  jax.tree.map(close, other, gradient)


def test_microbatches_change_neither_losses_nor_gradients():
  compare_microbatches(BOTH, loss_and_batch('response')[1])


@pytest.mark.full
def test_microbatches_of_the_students_answers_change_nothing():
  """Whose targets have another total weight than the responses."""
  answers = parse(OnPolicyConfig, ON_POLICY)
  audio, response = make_batch()
  other = response._replace(weight=response.weight * [[[1]], [[0]], [[1]]])
  stage = dataclasses.replace(BOTH, on_policy=answers)
  compare_microbatches(stage, (audio, response, other))


def test_microbatches_that_do_not_divide_the_rows_are_refused():
  stage = dataclasses.replace(BOTH, microbatches=2)
  loss = functools.partial(step.response_loss, encoder_trains=False, stage=stage)
  batch = jax.tree.map(jnp.asarray, make_batch())
  with pytest.raises(ValueError, match='microbatches = 2 .* 3 rows'):
    jax.eval_shape(loss, build('stride'), batch, KEY)


@functools.cache
def encoding_loss_and_batch():
  """The response loss and a batch of log-mel frames, for an encoder that trains."""
  loss = functools.partial(step.response_loss, encoder_trains=True, stage=BOTH)
  return loss, make_log_mel_batch()


@functools.partial(jax.jit, static_argnames='dropout')
def build_with_lora(dropout=0.0):
  model = build()
  for module, targets in (
    (model.encoder, ('k_proj', 'fc1')),
    (model.adapter, ('linear_mid',)),
    (model.llama, ('o_proj', 'gate_proj')),
  ):
    apply_lora(module, LoRAConfig(2, 3.0, dropout, targets), rngs=nnx.Rngs(1))
  return model


@pytest.mark.full
def test_only_factors_learn_and_the_adapter_without_its_base():
  loss, batch = encoding_loss_and_batch()
  before, after, history, first_mean = train(
    build_with_lora(), loss, batch, 3, trains='lora'
  )
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  assert jax.tree.structure(first_mean) == jax.tree.structure(before[0])
  initial = dict(nnx.to_flat_state(before[0]))
  trained = dict(nnx.to_flat_state(after[0]))
  factors = {path for path in trained if path[-1] in ('lora_A', 'lora_B')}
  assert len(factors) == 10
  assert {path[0] for path in trained.keys() - factors} == {'adapter'}
  assert not any('base' in path for path in trained)
  for path in factors:
    assert (trained[path][...] != initial[path][...]).any(), path
  # With B = 0 the first loss is that of the base.
  assert history[0]['loss'] == train(build(), loss, batch, 1, 'full')[2][0]['loss']


@pytest.mark.full
def test_dropout_of_factors_differs_from_step_to_step():
  loss, batch = encoding_loss_and_batch()
  again, plain, same = (
    train(build_with_lora(dropout=rate), loss, batch, 3, trains='lora')[2]
    for rate in (0.5, 0.0, 0.5)
  )
  assert same == again
  assert again[0]['response_nll'] == plain[0]['response_nll']
  assert again[2]['response_nll'] != plain[2]['response_nll']


def test_the_encoder_can_train():
  loss, batch = encoding_loss_and_batch()
  before, after, *_ = train(build(), loss, batch, 2, trains='full')
  assert set(before[0]) == {'adapter', 'encoder'}
  jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
  initial = dict(nnx.to_flat_state(before[0]['encoder']))
  for path, leaf in nnx.to_flat_state(after[0]['encoder']):
    changed = leaf[...] != initial[path][...]
    # Positions beyond the longest utterance do not change.
    used = FRAMES if path == ('embed_positions',) else None
    assert changed[:used].any(), path
    assert used is None or not changed[used:].any()


def test_the_encoder_runs_once_per_step(monkeypatch):
  """Both the response and its CTC loss need the encoder frames."""
  calls = []
  encode_rows = whisper.Whisper.encode_rows

  def count(self, log_mel, segment_ids, remat):
    calls.append(remat)
    return encode_rows(self, log_mel, segment_ids, remat)

  monkeypatch.setattr(whisper.Whisper, 'encode_rows', count)
  loss = functools.partial(step.response_loss, encoder_trains=True, stage=BOTH)
  batch = jax.tree.map(jnp.asarray, make_log_mel_batch())
  _, parts = jax.eval_shape(loss, build(), batch, KEY)
  assert set(parts) == {'response_nll', 'kl', *CTC_PARTS}
  assert calls == ['dots']


def take_rows(batch, count):
  """Return the first rows of a batch; some arrays have no axis of rows."""
  if isinstance(batch, AudioBatch):
    rows = AudioBatch(*[x[:count] for x in batch])
    return rows._replace(
      candidates=batch.candidates, logit_correction=batch.logit_correction
    )
  audio, response = batch
  rows = jax.tree.map(lambda x: x[:count], response)
  return take_rows(audio, count), rows._replace(shared_prefix=response.shared_prefix)


def build_without_dropout():
  """Dropout masks depend on the shape of the batch."""
  model = build()
  model.adapter.layers.dropout = model.adapter.letter_layers.dropout = 0.0
  return model


@pytest.mark.parametrize('stage', ['ctc', 'response'])
def test_empty_rows_change_nothing(stage):
  loss, batch = loss_and_batch(stage)
  model = build_without_dropout()
  value, _ = evaluate(model, batch, loss=loss)
  expected, _ = evaluate(model, take_rows(batch, 2), loss=loss)
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_softmax_is_over_the_candidates_of_the_batch():
  """The logit of a candidate that stands for e entries is raised by 1."""
  loss, audio = loss_and_batch('ctc')
  model = build_without_dropout()
  labels = np.asarray([[[1, 1, 2, 0]], [[2, 1, 0, 0]], [[0] * 4]], np.int32)
  correction = np.asarray([0, 0, 0, 1], np.float32)
  sampled = audio._replace(
    labels=labels, candidates=np.asarray([4, 0, 3]), logit_correction=correction
  )
  value, parts = evaluate(model, sampled, loss=loss)
  table = model.llama.embed_tokens[...]
  frame_mask = audio.segment_ids > 0
  scores = jax.jit(CTCAdapter.scores)(model.adapter, audio.frames, frame_mask, table)
  logits = scores.tokens[..., np.asarray([0, 5, 1, 4])] + correction[None, None]
  ctc = jax.jit(losses.ctc)
  expected = ctc(logits, scores.mask, jnp.asarray(labels[:, 0]))
  np.testing.assert_allclose(parts['ctc_tokens'], expected, rtol=1e-5)
  letters = jnp.asarray(audio.letters[:, 0])
  letter_loss = ctc(scores.letters, scores.letters_mask, letters)
  np.testing.assert_allclose(parts['ctc_letters'], letter_loss, rtol=1e-5)
  np.testing.assert_allclose(value, expected + letter_loss, rtol=1e-5)


def test_without_letters_the_loss_is_that_of_tokens():
  config = CTCAdapterConfig(STACK, WIDTH, 0, 0, 16, 2, 3, 0.0, 24, len(VOCABULARY), 5)
  model = build()
  model.adapter = draw(lambda: CTCAdapter(config, rngs=nnx.Rngs(0)))
  loss, batch = loss_and_batch('ctc')
  value, parts = evaluate(model, batch, loss=loss)
  assert set(parts) == {'ctc_tokens'} and value == parts['ctc_tokens'] > 0
