# SPDX-License-Identifier: Apache-2.0
"""The optimizer: Adam with decoupled weight decay, warmed up, then decayed to zero."""

import jax
import ml_collections
import optax

from acl_jax.training.spikes import skip_spikes


def learning_rate_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
  """Linear warm-up to `peak_lr`, then a cosine to zero at `steps`."""
  return optax.warmup_cosine_decay_schedule(
    0.0, config.peak_lr, config.warmup_steps, max(config.steps, config.warmup_steps + 1)
  )


def make_optimizer(
  config: ml_collections.ConfigDict, encoder_lr_scale: float = 1.0
) -> optax.GradientTransformationExtraArgs:
  """Gradients are clipped by their global norm first; vectors are not decayed.

  `update` is also given the loss, as `value`: `config.skip_spikes` leaves a step out
  whose loss is far above those before.

  encoder_lr_scale: an encoder that was trained before learns at this share of the rate.
  """
  optimizer = optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate_schedule(config),
      b2=0.98,
      weight_decay=config.weight_decay,
      mask=_matrices,
    ),
    optax.masked(optax.scale(encoder_lr_scale), _of_encoder),
  )
  if config.get('skip_spikes'):
    return skip_spikes(optimizer)
  return optax.with_extra_args_support(optimizer)


def _matrices(params):
  def is_matrix(path, leaf) -> bool:
    stacked = any(str(getattr(key, 'key', '')).endswith('layers') for key in path)
    return leaf.ndim - stacked > 1  # the layer axis does not make a vector a matrix

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def _of_encoder(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[0], 'key', None) == 'encoder', params
  )
