# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from acl_jax.models.batch_norm import BatchNorm
from acl_jax.models.conformer import Conformer, ConformerConfig
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.layers import segment_mask
from acl_jax.models.relative_attention import (
  distance_scores,
  relative_shift,
  relative_shift_transpose,
  sinusoids,
)
from acl_jax.weights.parakeet import load_conformer
from tests import tiny_weights
from tests.tiny_conformer import SIZES, VOCABULARY, build_reference, log_mel

LENGTHS = (75, 41, 20)
CONFIG = ConformerConfig(**SIZES)

run = jax.jit(lambda model, x, frame_mask: model(x, frame_mask))
encode = jax.jit(
  lambda model, *inputs, **options: model.encoder.encode(*inputs, **options),
  static_argnames=('train_norm', 'remat'),
)


@pytest.fixture(scope='module')
def reference():
  return build_reference()


@pytest.fixture(scope='module')
def conformer(reference, tmp_path_factory):
  folder = tmp_path_factory.mktemp('conformer')
  reference.save_pretrained(folder)
  return load_conformer(folder)


def block(model, layer):
  return jax.tree.map(lambda x: x[layer], model.encoder.layers)


def test_subsampling_equals_transformers(reference, conformer):
  x, frame_mask = log_mel(LENGTHS)
  ids = jnp.asarray(frame_mask, jnp.int32)
  frames, ids = jax.jit(lambda m, *a: m(*a))(conformer.encoder.subsampling, x, ids)
  with torch.no_grad():
    expected = reference.encoder.subsampling(
      torch.from_numpy(x), torch.from_numpy(frame_mask)
    )
  assert frames.shape == (3, 10, 24) and (ids > 0).sum(1).tolist() == [10, 6, 3]
  difference = np.abs(frames - expected.numpy())[np.asarray(ids) > 0]
  assert difference.max() < 1e-5


def test_a_layer_equals_transformers(reference, conformer):
  rng, t = np.random.default_rng(1), 9
  x = rng.normal(size=(2, t, 24)).astype(np.float32)
  ids = np.asarray([[1] * t, [1] * 6 + [0] * 3])
  mask = segment_mask(jnp.asarray(ids), None)
  positions = reference.encoder.encode_positions(torch.from_numpy(x))
  position_embeddings = sinusoids(t, 24)[:-1]  # which has no -t
  np.testing.assert_allclose(position_embeddings, positions[0].numpy(), atol=1e-6)
  with torch.no_grad():
    expected = reference.encoder.layers[1](
      torch.from_numpy(x), torch.from_numpy(np.array(mask))[:, None], positions
    )
  call = jax.jit(lambda block, *a: block(*a, None, False)[0])
  actual = call(block(conformer, 1), x, sinusoids(t, 24), jnp.asarray(ids), mask)
  assert np.abs(actual - expected.numpy())[ids > 0].max() < 1e-5


@pytest.mark.parametrize('t', [1, 2, 5])
def test_relative_shift_selects_the_score_of_each_distance(t):
  distance = jnp.arange(t - 1, -t - 1, -1, dtype=jnp.float32)
  scores = relative_shift(jnp.broadcast_to(distance, (2, 3, t, 2 * t)))
  expected = np.arange(t)[:, None] - np.arange(t)[None]  # of query to key
  np.testing.assert_array_equal(scores, np.broadcast_to(expected, scores.shape))
  back = relative_shift_transpose(scores + t)
  for row in range(t):
    first = t - 1 - row
    own = back[:, :, row, first : first + t]
    np.testing.assert_array_equal(own, scores[:, :, row] + t)
  np.testing.assert_allclose(jnp.sum(back), jnp.sum(scores + t))


def test_the_explicit_gradient_of_distance_scores_equals_autodiff():
  rng = np.random.default_rng(3)
  shapes = (4, 2, 7, 6), (4, 14, 6), (4, 2, 7, 7)  # n b t h, n p h, n b t s
  query, relative, probe = (jnp.asarray(rng.normal(size=s), np.float32) for s in shapes)

  def definition(query, relative):
    return relative_shift(jnp.einsum('nbth,nph->nbtp', query, relative))

  expected, expected_vjp = jax.vjp(definition, query, relative)
  actual, vjp = jax.vjp(distance_scores, query, relative)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  for gradient, wanted in zip(vjp(probe), expected_vjp(probe), strict=True):
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)


def test_the_model_equals_transformers(reference, conformer):
  x, frame_mask = log_mel(LENGTHS)
  frames, mask = run(conformer, x, jnp.asarray(frame_mask))
  inputs = torch.from_numpy(x), torch.from_numpy(frame_mask)
  with torch.no_grad():
    hidden = reference.encoder(*inputs).last_hidden_state.numpy()
    logits = reference(*inputs).logits.numpy()
    sequences = reference.generate(*inputs).numpy()
  mask = np.asarray(mask)
  np.testing.assert_allclose(frames[mask], hidden[mask], atol=1e-5)
  np.testing.assert_allclose(conformer.logits(frames)[mask], logits[mask], atol=1e-5)
  decoded = np.asarray(conformer.greedy(frames, jnp.asarray(mask)))
  for row, best in zip(decoded, sequences, strict=True):
    changed = best != np.concatenate([[-1], best[:-1]])
    assert row[row >= 0].tolist() == best[changed & (best != VOCABULARY - 1)].tolist()


def test_gradients_equal_transformers(reference, conformer):
  x, frame_mask = log_mel(LENGTHS)
  probe = np.random.default_rng(2).normal(size=(3, 10, VOCABULARY)).astype(np.float32)
  mask = np.asarray(run(conformer, x, jnp.asarray(frame_mask))[1])
  probe *= mask[..., None]
  graphdef, params, rest = nnx.split(conformer, nnx.Param, ...)

  def loss(params):
    model = nnx.merge(graphdef, params, rest)
    frames, _ = model(jnp.asarray(x), jnp.asarray(frame_mask))
    return jnp.sum(model.logits(frames) * probe)

  gradient = jax.jit(jax.grad(loss))(params)
  reference.zero_grad()
  logits = reference(torch.from_numpy(x), torch.from_numpy(frame_mask)).logits
  (logits * torch.from_numpy(probe)).sum().backward()
  for reference_name, name, layout in (
    ('encoder.layers.2.self_attn.relative_k_proj.weight', 'relative_k_proj', (1, 0)),
    ('encoder.layers.2.self_attn.bias_v', 'bias_v', (0, 1)),
  ):
    expected = reference.get_parameter(reference_name).grad.numpy().transpose(layout)
    actual = gradient['encoder']['layers']['self_attn'][name][...][2]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)
  first = reference.get_parameter('encoder.subsampling.layers.0.weight').grad.numpy()
  actual = gradient['encoder']['subsampling']['conv']['weight'][...]
  expected = first[:, 0].transpose(1, 2, 0)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize('padding', [-7.5, 1e6, np.nan, np.inf])
def test_padding_content_changes_nothing(conformer, padding):
  x, frame_mask = log_mel((75, 41, 0))
  expected, mask = run(conformer, x, jnp.asarray(frame_mask))
  dirty = np.where(frame_mask[..., None], x, np.float32(padding))
  actual, actual_mask = run(conformer, dirty, jnp.asarray(frame_mask))
  assert mask.sum(1).tolist() == [10, 6, 0]
  np.testing.assert_array_equal(mask, actual_mask)
  assert jnp.abs((actual - expected)[mask]).max() == 0.0
  assert jnp.isfinite(actual).all()


def test_packed_utterances_are_encoded_as_alone(conformer):
  """Each utterance starts at a multiple of eight, after the end of another."""
  packed, ids = np.full((1, 200, 16), 9.0, np.float32), np.zeros((1, 200), np.int32)
  starts = (0, 80, 128)
  for number, (start, length) in enumerate(zip(starts, LENGTHS, strict=True), 1):
    packed[0, start : start + length] = log_mel((length,), seed=number)[0]
    ids[0, start : start + length] = number
  row_encoded = encode(conformer, packed, ids)
  for number, (start, length) in enumerate(zip(starts, LENGTHS, strict=True), 1):
    x, frame_mask = log_mel((length,), seed=number)
    alone, mask = run(conformer, x, jnp.asarray(frame_mask))
    own = np.asarray(row_encoded.segment_ids[0]) == number
    assert own.sum() == mask.sum() == -(-length // 8)
    assert np.argmax(own) == start // 8
    np.testing.assert_allclose(row_encoded.frames[0, own], alone[0], atol=1e-5)


def test_other_utterances_of_a_row_change_nothing(conformer):
  x, _ = log_mel((160,), seed=4)
  ids = np.repeat([1, 2], [77, 83])[None]
  ids[:, 77:80] = 0
  expected = encode(conformer, x, ids)
  other = np.where((ids == 2)[..., None], x * -3 + 1, x)
  actual = encode(conformer, other, ids)
  first = np.asarray(expected.segment_ids[0]) == 1
  assert jnp.abs((actual.frames - expected.frames)[0, first]).max() == 0.0
  assert jnp.abs((actual.frames - expected.frames)[0, ~first]).max() > 0.1


def test_frames_beyond_the_attention_context_change_nothing(conformer):
  config = dataclasses.replace(CONFIG, attention_context=(2, 0), conv_kernel_size=1)
  model = tiny_weights.draw(lambda: Conformer(config, rngs=nnx.Rngs(0)))
  x, frame_mask = log_mel((120,))
  expected, _ = run(model, x, jnp.asarray(frame_mask))
  later = np.arange(120)[None, :, None] >= 64
  actual, _ = run(model, np.where(later, x + 1, x), jnp.asarray(frame_mask))
  changed = np.abs(actual - expected).max(-1)[0] > 0
  # Subsampling looks 7 log-mel frames ahead, less than an encoder frame.
  assert changed.tolist() == [False] * 8 + [True] * 7
  mask = np.asarray(segment_mask(jnp.ones((1, 4), jnp.int32), (2, 1)))[0]
  assert mask.astype(int).tolist() == [
    [1, 1, 0, 0],
    [1, 1, 1, 0],
    [1, 1, 1, 1],
    [0, 1, 1, 1],
  ]


def test_batch_norm_equals_pytorch_over_unmasked_frames():
  rng = np.random.default_rng(3)
  x = rng.normal(2.0, 3.0, size=(2, 7, 5)).astype(np.float32)
  frame_mask = np.arange(7) < np.asarray([7, 4])[:, None]
  torch_norm = torch.nn.BatchNorm1d(5)
  torch.nn.init.normal_(torch_norm.weight)
  torch.nn.init.normal_(torch_norm.bias)
  norm = BatchNorm(5)
  norm.weight[...] = jnp.asarray(torch_norm.weight.detach().numpy())
  norm.bias[...] = jnp.asarray(torch_norm.bias.detach().numpy())
  expected = torch_norm(torch.from_numpy(x[frame_mask])).detach().numpy()
  dirty = np.where(frame_mask[..., None], x, np.nan)
  actual, moments = norm(jnp.asarray(dirty), jnp.asarray(frame_mask), True)
  np.testing.assert_allclose(actual[frame_mask], expected, atol=1e-5)
  np.testing.assert_allclose(moments.mean, torch_norm.running_mean.numpy(), atol=1e-6)
  np.testing.assert_allclose(
    moments.variance, torch_norm.running_var.numpy(), atol=1e-5
  )
  inference, unchanged = norm(jnp.asarray(x), jnp.asarray(frame_mask), False)
  np.testing.assert_array_equal(unchanged.mean, np.zeros(5))
  by_averages = np.asarray(norm.weight[...]) * x / np.sqrt(1 + 1e-5)
  by_averages += np.asarray(norm.bias[...])
  np.testing.assert_allclose(inference, by_averages, atol=1e-5)


def test_moments_are_returned_and_are_not_parameters(conformer):
  x, frame_mask = log_mel(LENGTHS)
  ids = jnp.asarray(frame_mask, jnp.int32)
  unchanged, updated = (
    encode(conformer, x, ids),
    encode(conformer, x, ids, train_norm=True),
  )
  running = conformer.encoder.layers.conv.norm.running_mean[...]
  np.testing.assert_array_equal(unchanged.moments.mean, running)
  assert updated.moments.mean.shape == (3, 24)
  assert (jnp.abs(updated.moments.mean - running) > 0).all()
  names = {
    str(path[-1]) for path, _ in nnx.to_flat_state(nnx.state(conformer, nnx.Param))
  }
  assert 'bias_u' in names and not names & {'running_mean', 'running_var'}


def test_dropout_needs_a_key(conformer):
  x, frame_mask = log_mel(LENGTHS)
  ids = jnp.asarray(frame_mask, jnp.int32)
  plain = encode(conformer, x, ids).frames
  once, repeated, other = (
    encode(conformer, x, ids, jax.random.key(i)).frames for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(once, repeated)
  assert (once != plain).any() and (once != other).any()


def test_dropout_does_not_depend_on_later_rows(conformer):
  x, frame_mask = log_mel(LENGTHS)
  ids, key = jnp.asarray(frame_mask, jnp.int32), jax.random.key(0)
  rows = [jnp.pad(a, ((0, 2), *[(0, 0)] * (a.ndim - 1))) for a in (x, ids)]
  frames, more = (
    encode(conformer, x, ids, key).frames,
    encode(conformer, *rows, key).frames,
  )
  np.testing.assert_allclose(more[:3], frames, atol=1e-6)


@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_remat_changes_nothing(conformer, remat):
  x, frame_mask = log_mel(LENGTHS)
  ids = jnp.asarray(frame_mask, jnp.int32)
  plain, recomputed = encode(conformer, x, ids), encode(conformer, x, ids, remat=remat)
  np.testing.assert_allclose(recomputed.frames, plain.frames, atol=1e-6)


@pytest.mark.parametrize(
  'wrong, message',
  [
    ({'hidden_size': 26}, 'hidden_size = 26 .* 4'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers = 0 '),
    ({'num_mel_bins': 20}, 'num_mel_bins = 20 .* 8'),
    ({'conv_kernel_size': 6}, 'conv_kernel_size = 6 '),
    (
      {'subsampling_factor': 6, 'num_mel_bins': 18},
      'subsampling_factor = 6 ',
    ),
  ],
)
def test_impossible_sizes_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    ConformerConfig(**(SIZES | wrong))


def test_audio_beyond_the_limit_is_refused():
  config = ConformerConfig(**SIZES, max_position_embeddings=4)
  model = jax.eval_shape(lambda: Conformer(config, rngs=nnx.Rngs(0)))
  with pytest.raises(ValueError, match='33 frames.* 32'):
    jax.eval_shape(run, model, jnp.zeros((1, 33, 16)), jnp.ones((1, 33), bool))


def test_computes_in_the_dtype_of_the_input():
  model = jax.eval_shape(lambda: ConformerCTC(CONFIG, VOCABULARY, rngs=nnx.Rngs(0)))
  x, frame_mask = jnp.ones((2, 13, 16), jnp.bfloat16), jnp.ones((2, 13), bool)
  frames, _ = jax.eval_shape(run, model, x, frame_mask)
  assert frames.dtype == jnp.bfloat16 and frames.shape == (2, 2, 24)
