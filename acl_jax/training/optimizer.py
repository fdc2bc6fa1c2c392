# SPDX-License-Identifier: Apache-2.0
"""The optimizer: AdamW with warm-up and cosine decay to zero."""

import functools

import jax
import optax

from acl_jax.config.stages import StageConfig
from acl_jax.training.spikes import skip_spikes


def learning_rate_schedule(config: StageConfig) -> optax.Schedule:
  """Linear warm-up to `peak_lr`, then cosine decay to zero at `steps`."""
  return optax.warmup_cosine_decay_schedule(
    0.0, config.peak_lr, config.warmup_steps, max(config.steps, config.warmup_steps + 1)
  )


@functools.cache
def make_optimizer(
  config: StageConfig, encoder_lr_scale: float = 1.0
) -> optax.GradientTransformationExtraArgs:
  """Return AdamW after clipping by the global norm; only matrices decay.

  `update` also takes the loss as `value`: with `config.skip_spikes` it skips steps
  whose loss is far above the recent ones.

  encoder_lr_scale: learning rate of the encoder over that of other parameters.

  Equal arguments return the same object, for which `jit` compiles once.
  """
  optimizer = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate_schedule(config),
      b2=0.98,
      weight_decay=config.weight_decay,
      mask=_is_matrix,
    ),
    optax.masked(optax.scale(encoder_lr_scale), _is_encoder),
  )
  if config.skip_spikes:
    return skip_spikes(optimizer)
  return optax.with_extra_args_support(optimizer)


def _is_matrix(params):
  """Mask of the matrices, without counting the layer axis of stacked layers."""

  def is_matrix(path, leaf) -> bool:
    stacked = any(str(getattr(key, 'key', '')).endswith('layers') for key in path)
    return leaf.ndim - stacked > 1

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def _is_encoder(params):
  """Mask of the encoder's parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[0], 'key', None) == 'encoder', params
  )
