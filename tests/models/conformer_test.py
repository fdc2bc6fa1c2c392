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
from tests.tiny_conformer import SIZES, VOCABULARY, log_mel, oracle

LENGTHS = (75, 41, 20)
CONFIG = ConformerConfig(**SIZES)

run = jax.jit(lambda model, x, valid: model(x, valid))
encode = jax.jit(
  lambda model, *inputs, **how: model.encoder.encode(*inputs, **how),
  static_argnames=('train_norm', 'remat'),
)


@pytest.fixture(scope='module')
def theirs():
  return oracle()


@pytest.fixture(scope='module')
def ours(theirs, tmp_path_factory):
  folder = tmp_path_factory.mktemp('conformer')
  theirs.save_pretrained(folder)
  return load_conformer(folder)


def block(model, layer):
  return jax.tree.map(lambda x: x[layer], model.encoder.layers)


def test_subsampling_equals_transformers(theirs, ours):
  x, valid = log_mel(LENGTHS)
  ids = jnp.asarray(valid, jnp.int32)
  frames, ids = jax.jit(lambda m, *a: m(*a))(ours.encoder.subsampling, x, ids)
  with torch.no_grad():
    expected = theirs.encoder.subsampling(torch.from_numpy(x), torch.from_numpy(valid))
  assert frames.shape == (3, 10, 24) and (ids > 0).sum(1).tolist() == [10, 6, 3]
  difference = np.abs(frames - expected.numpy())[np.asarray(ids) > 0]
  assert difference.max() < 1e-5


def test_a_layer_equals_transformers(theirs, ours):
  rng, t = np.random.default_rng(1), 9
  x = rng.normal(size=(2, t, 24)).astype(np.float32)
  ids = np.asarray([[1] * t, [1] * 6 + [0] * 3])
  mask = segment_mask(jnp.asarray(ids), None)
  positions = theirs.encoder.encode_positions(torch.from_numpy(x))
  theirs_too = sinusoids(t, 24)[:-1]  # which has no -t
  np.testing.assert_allclose(theirs_too, positions[0].numpy(), atol=1e-6)
  with torch.no_grad():
    expected = theirs.encoder.layers[1](
      torch.from_numpy(x), torch.from_numpy(np.array(mask))[:, None], positions
    )
  call = jax.jit(lambda block, *a: block(*a, None, False)[0])
  actual = call(block(ours, 1), x, sinusoids(t, 24), jnp.asarray(ids), mask)
  assert np.abs(actual - expected.numpy())[ids > 0].max() < 1e-5


@pytest.mark.parametrize('t', [1, 2, 5])
def test_shifted_scores_are_those_of_each_distance(t):
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


def test_the_gradient_by_distance_is_the_one_that_jax_finds():
  rng = np.random.default_rng(3)
  shapes = (4, 2, 7, 6), (4, 14, 6), (4, 2, 7, 7)  # n b t h, n p h, n b t s
  query, relative, probe = (jnp.asarray(rng.normal(size=s), np.float32) for s in shapes)

  def plain(query, relative):
    return relative_shift(jnp.einsum('nbth,nph->nbtp', query, relative))

  expected, expected_back = jax.vjp(plain, query, relative)
  actual, back = jax.vjp(distance_scores, query, relative)
  np.testing.assert_allclose(actual, expected, atol=1e-5)
  for mine, theirs in zip(back(probe), expected_back(probe), strict=True):
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_model_equals_transformers(theirs, ours):
  x, valid = log_mel(LENGTHS)
  frames, kept = run(ours, x, jnp.asarray(valid))
  given = torch.from_numpy(x), torch.from_numpy(valid)
  with torch.no_grad():
    hidden = theirs.encoder(*given).last_hidden_state.numpy()
    logits = theirs(*given).logits.numpy()
    sequences = theirs.generate(*given).numpy()
  kept = np.asarray(kept)
  np.testing.assert_allclose(frames[kept], hidden[kept], atol=1e-5)
  np.testing.assert_allclose(ours.logits(frames)[kept], logits[kept], atol=1e-5)
  found = np.asarray(ours.greedy(frames, jnp.asarray(kept)))
  for row, best in zip(found, sequences, strict=True):
    changed = best != np.concatenate([[-1], best[:-1]])
    assert row[row >= 0].tolist() == best[changed & (best != VOCABULARY - 1)].tolist()


def test_gradients_equal_transformers(theirs, ours):
  x, valid = log_mel(LENGTHS)
  probe = np.random.default_rng(2).normal(size=(3, 10, VOCABULARY)).astype(np.float32)
  kept = np.asarray(run(ours, x, jnp.asarray(valid))[1])
  probe *= kept[..., None]
  graphdef, params, rest = nnx.split(ours, nnx.Param, ...)

  def loss(params):
    model = nnx.merge(graphdef, params, rest)
    frames, _ = model(jnp.asarray(x), jnp.asarray(valid))
    return jnp.sum(model.logits(frames) * probe)

  gradient = jax.jit(jax.grad(loss))(params)
  theirs.zero_grad()
  logits = theirs(torch.from_numpy(x), torch.from_numpy(valid)).logits
  (logits * torch.from_numpy(probe)).sum().backward()
  for name, ours_, layout in (
    ('encoder.layers.2.self_attn.relative_k_proj.weight', 'relative_k_proj', (1, 0)),
    ('encoder.layers.2.self_attn.bias_v', 'bias_v', (0, 1)),
  ):
    expected = theirs.get_parameter(name).grad.numpy().transpose(layout)
    actual = gradient['encoder']['layers']['self_attn'][ours_][...][2]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)
  first = theirs.get_parameter('encoder.subsampling.layers.0.weight').grad.numpy()
  actual = gradient['encoder']['subsampling']['conv']['weight'][...]
  expected = first[:, 0].transpose(1, 2, 0)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize('rubbish', [-7.5, 1e6, np.nan, np.inf])
def test_content_of_the_padding_changes_nothing(ours, rubbish):
  x, valid = log_mel((75, 41, 0))
  expected, kept = run(ours, x, jnp.asarray(valid))
  dirty = np.where(valid[..., None], x, np.float32(rubbish))
  actual, also_kept = run(ours, dirty, jnp.asarray(valid))
  assert kept.sum(1).tolist() == [10, 6, 0]
  np.testing.assert_array_equal(kept, also_kept)
  assert jnp.abs((actual - expected)[kept]).max() == 0.0
  assert jnp.isfinite(actual).all()


def test_packed_is_alone(ours):
  """Each utterance begins at a multiple of eight, behind the end of another."""
  packed, ids = np.full((1, 200, 16), 9.0, np.float32), np.zeros((1, 200), np.int32)
  starts = (0, 80, 128)
  for number, (start, length) in enumerate(zip(starts, LENGTHS, strict=True), 1):
    packed[0, start : start + length] = log_mel((length,), seed=number)[0]
    ids[0, start : start + length] = number
  together = encode(ours, packed, ids)
  for number, (start, length) in enumerate(zip(starts, LENGTHS, strict=True), 1):
    x, valid = log_mel((length,), seed=number)
    alone, kept = run(ours, x, jnp.asarray(valid))
    mine = np.asarray(together.segment_ids[0]) == number
    assert mine.sum() == kept.sum() == -(-length // 8)
    assert np.argmax(mine) == start // 8
    np.testing.assert_allclose(together.frames[0, mine], alone[0], atol=1e-5)


def test_other_utterances_of_a_row_change_nothing(ours):
  x, _ = log_mel((160,), seed=4)
  ids = np.repeat([1, 2], [77, 83])[None]
  ids[:, 77:80] = 0
  expected = encode(ours, x, ids)
  other = np.where((ids == 2)[..., None], x * -3 + 1, x)
  actual = encode(ours, other, ids)
  first = np.asarray(expected.segment_ids[0]) == 1
  assert jnp.abs((actual.frames - expected.frames)[0, first]).max() == 0.0
  assert jnp.abs((actual.frames - expected.frames)[0, ~first]).max() > 0.1


def test_a_limited_context_sees_no_further(ours):
  config = dataclasses.replace(CONFIG, attention_context=(2, 0), conv_kernel_size=1)
  model = Conformer(config, rngs=nnx.Rngs(0))
  x, valid = log_mel((120,))
  expected, _ = run(model, x, jnp.asarray(valid))
  later = np.arange(120)[None, :, None] >= 64
  actual, _ = run(model, np.where(later, x + 1, x), jnp.asarray(valid))
  changed = np.abs(actual - expected).max(-1)[0] > 0
  # Subsampling looks 7 frames ahead, which is not quite one of these.
  assert changed.tolist() == [False] * 8 + [True] * 7
  mask = np.asarray(segment_mask(jnp.ones((1, 4), jnp.int32), (2, 1)))[0]
  assert mask.astype(int).tolist() == [
    [1, 1, 0, 0],
    [1, 1, 1, 0],
    [1, 1, 1, 1],
    [0, 1, 1, 1],
  ]


def test_batch_norm_is_that_of_pytorch_over_valid_frames():
  rng = np.random.default_rng(3)
  x = rng.normal(2.0, 3.0, size=(2, 7, 5)).astype(np.float32)
  valid = np.arange(7) < np.asarray([7, 4])[:, None]
  oracle = torch.nn.BatchNorm1d(5)
  torch.nn.init.normal_(oracle.weight)
  torch.nn.init.normal_(oracle.bias)
  norm = BatchNorm(5)
  norm.weight[...] = jnp.asarray(oracle.weight.detach().numpy())
  norm.bias[...] = jnp.asarray(oracle.bias.detach().numpy())
  expected = oracle(torch.from_numpy(x[valid])).detach().numpy()
  dirty = np.where(valid[..., None], x, np.nan)
  actual, moments = norm(jnp.asarray(dirty), jnp.asarray(valid), True)
  np.testing.assert_allclose(actual[valid], expected, atol=1e-5)
  np.testing.assert_allclose(moments.mean, oracle.running_mean.numpy(), atol=1e-6)
  np.testing.assert_allclose(moments.variance, oracle.running_var.numpy(), atol=1e-5)
  again, unmoved = norm(jnp.asarray(x), jnp.asarray(valid), False)
  np.testing.assert_array_equal(unmoved.mean, np.zeros(5))
  by_averages = np.asarray(norm.weight[...]) * x / np.sqrt(1 + 1e-5)
  by_averages += np.asarray(norm.bias[...])
  np.testing.assert_allclose(again, by_averages, atol=1e-5)


def test_moments_are_returned_and_kept_apart_from_parameters(ours):
  x, valid = log_mel(LENGTHS)
  ids = jnp.asarray(valid, jnp.int32)
  still, moved = encode(ours, x, ids), encode(ours, x, ids, train_norm=True)
  running = ours.encoder.layers.conv.norm.running_mean[...]
  np.testing.assert_array_equal(still.moments.mean, running)
  assert moved.moments.mean.shape == (3, 24)
  assert (jnp.abs(moved.moments.mean - running) > 0).all()
  names = {str(path[-1]) for path, _ in nnx.to_flat_state(nnx.state(ours, nnx.Param))}
  assert 'bias_u' in names and not names & {'running_mean', 'running_var'}


def test_dropout_iff_a_key(ours):
  x, valid = log_mel(LENGTHS)
  ids = jnp.asarray(valid, jnp.int32)
  plain = encode(ours, x, ids).frames
  once, again, other = (
    encode(ours, x, ids, jax.random.key(i)).frames for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(once, again)
  assert (once != plain).any() and (once != other).any()


def test_further_rows_change_nothing_of_what_is_dropped(ours):
  x, valid = log_mel(LENGTHS)
  ids, key = jnp.asarray(valid, jnp.int32), jax.random.key(0)
  rows = [jnp.pad(a, ((0, 2), *[(0, 0)] * (a.ndim - 1))) for a in (x, ids)]
  frames, more = encode(ours, x, ids, key).frames, encode(ours, *rows, key).frames
  np.testing.assert_allclose(more[:3], frames, atol=1e-6)


@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_remat_changes_nothing(ours, remat):
  x, valid = log_mel(LENGTHS)
  ids = jnp.asarray(valid, jnp.int32)
  plain, again = encode(ours, x, ids), encode(ours, x, ids, remat=remat)
  np.testing.assert_allclose(again.frames, plain.frames, atol=1e-6)


@pytest.mark.parametrize(
  'wrong, message',
  [
    ({'hidden_size': 26}, 'hidden_size = 26 is not a multiple of 4'),
    ({'num_hidden_layers': 0}, 'num_hidden_layers = 0 is not a positive integer'),
    ({'num_mel_bins': 20}, 'num_mel_bins = 20 is not a multiple of 8'),
    ({'conv_kernel_size': 6}, 'conv_kernel_size = 6 is not odd'),
    (
      {'subsampling_factor': 6, 'num_mel_bins': 18},
      'subsampling_factor = 6 is no power',
    ),
  ],
)
def test_impossible_sizes_are_refused(wrong, message):
  with pytest.raises(ValueError, match=message):
    ConformerConfig(**(SIZES | wrong))


def test_audio_beyond_the_limit_is_refused():
  model = Conformer(
    ConformerConfig(**SIZES, max_position_embeddings=4), rngs=nnx.Rngs(0)
  )
  with pytest.raises(ValueError, match='has 33 frames; the encoder hears 32 at most'):
    model(jnp.zeros((1, 33, 16)), jnp.ones((1, 33), bool))


def test_computes_in_the_dtype_of_the_input():
  model = ConformerCTC(CONFIG, VOCABULARY, rngs=nnx.Rngs(0))
  x, valid = jnp.ones((2, 13, 16), jnp.bfloat16), jnp.ones((2, 13), bool)
  frames, _ = jax.eval_shape(run, model, x, valid)
  assert frames.dtype == jnp.bfloat16 and frames.shape == (2, 2, 24)
