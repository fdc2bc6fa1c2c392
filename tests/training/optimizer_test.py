# SPDX-License-Identifier: Apache-2.0
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from acl_jax.config import defaults
from acl_jax.config.parsing import parse
from acl_jax.config.stages import StageConfig
from acl_jax.models import whisper
from acl_jax.models.ctc import CTCAdapter, CTCAdapterConfig
from acl_jax.models.lora import LoRAConfig, apply_lora
from acl_jax.training.optimizer import learning_rate_schedule, make_optimizer
from tests.tiny_weights import draw

CONFIG = parse(
  StageConfig,
  defaults.stage(
    peak_lr=0.2, warmup_steps=4, steps=20, clip_norm=1.0, weight_decay=0.5
  ).to_dict(),
)


def test_learning_rate_warms_up_and_decays_to_zero():
  rates = [float(learning_rate_schedule(CONFIG)(step)) for step in range(21)]
  np.testing.assert_allclose(rates[:5], [0, 0.05, 0.1, 0.15, 0.2], atol=1e-7)
  assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False))
  assert rates[12] == pytest.approx(0.1)
  assert rates[20] == pytest.approx(0, abs=1e-7)


def test_warm_up_may_be_longer_than_training():
  config = dataclasses.replace(CONFIG, steps=2)
  assert float(learning_rate_schedule(config)(2)) == pytest.approx(0.1)


@pytest.fixture
def params():
  config = CTCAdapterConfig(2, 3, 4, 1, 6, 2, 3, 0.0, 5, 7, 9)
  return nnx.state(draw(lambda: CTCAdapter(config, rngs=nnx.Rngs(0))), nnx.Param)


def test_only_matrices_decay(params):
  """Vectors of stacked layers are not matrices."""
  optimizer = make_optimizer(CONFIG)
  state = optimizer.init(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  advance = jax.jit(optimizer.update)
  _, state = advance(zeros, state, params)  # the first learning rate is zero
  update, _ = advance(zeros, state, params)
  decayed = {
    '/'.join(map(str, path)): -leaf[...]
    for path, leaf in nnx.to_flat_state(update)
    if leaf[...].any()
  }
  matrices = {'linear_1', 'linear_mid', 'linear_2', 'letter_head', 'letter_embed'}
  matrices |= {'spelling/buckets', 'linear_spelling'}
  matrices |= {
    f'{layers}/{name}'
    for layers in ('letter_layers', 'layers')
    for name in ('conv', 'gate_proj', 'up_proj', 'down_proj')
  }
  assert set(decayed) == matrices
  np.testing.assert_allclose(
    decayed['linear_1'], 0.05 * 0.5 * params['linear_1'][...], rtol=1e-5
  )


def test_gradients_are_clipped_by_their_global_norm():
  optimizer = make_optimizer(CONFIG)
  params = {'a': jnp.zeros(3), 'b': jnp.zeros((2, 2))}
  gradient = {'a': jnp.full(3, 30.0), 'b': jnp.full((2, 2), -40.0)}
  _, state = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
  (adam,) = [s for s in state[1] if isinstance(s, optax.ScaleByAdamState)]
  norm = (3 * 30**2 + 4 * 40**2) ** 0.5
  np.testing.assert_allclose(adam.mu['a'], 0.1 * 30 / norm, rtol=1e-5)


def test_learning_rates_decay_from_layer_to_layer():
  """Whisper: convolutions below all layers, the last norm above them."""
  sizes = whisper.WhisperConfig(5, 4, 3, 2, 6, 7)
  lora = LoRAConfig(2, 1.0, 0.0, ('fc1',))
  encoder = draw(
    lambda: apply_lora(whisper.Whisper(sizes, rngs=nnx.Rngs(0)), lora, rngs=nnx.Rngs(0))
  )
  params = {
    'adapter': {'bias': jnp.ones(8)},
    'encoder': nnx.to_pure_dict(nnx.state(encoder, nnx.Param)),
  }
  ones = jax.tree.map(lambda x: jnp.asarray(np.ones(x.shape, x.dtype)), params)
  plain, decayed = (step_of(make_optimizer(CONFIG, 0.5, x), ones) for x in (1.0, 0.1))
  ratio = jax.tree.map(lambda a, b: np.asarray(a) / np.asarray(b), decayed, plain)
  np.testing.assert_allclose(ratio['adapter']['bias'], 1)
  expected = np.asarray([0.01, 0.1, 1])
  for name in ('lora_A', 'lora_B'):
    layers = ratio['encoder']['layers']['fc1']['weight'][name]
    np.testing.assert_allclose(
      layers, np.broadcast_to(expected[:, None, None], layers.shape)
    )
  bias = ratio['encoder']['layers']['self_attn_layer_norm']['bias']
  np.testing.assert_allclose(
    bias, np.broadcast_to(expected[:, None], bias.shape), rtol=1e-6
  )
  np.testing.assert_allclose(ratio['encoder']['layer_norm']['bias'], 1)
  for name in ('conv1', 'conv2'):
    np.testing.assert_allclose(ratio['encoder'][name]['bias'], 1e-3, rtol=1e-5)


def step_of(optimizer, gradient):
  """The second update, as the first learning rate is zero."""
  zeros = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), gradient)
  update = jax.jit(optimizer.update)
  _, state = update(gradient, jax.jit(optimizer.init)(zeros), zeros)
  return update(gradient, state, zeros)[0]
