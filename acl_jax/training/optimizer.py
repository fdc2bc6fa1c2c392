# SPDX-License-Identifier: Apache-2.0
"""The optimizer: AdamW with warm-up and cosine decay to zero."""

import functools

import jax
import numpy as np
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
  config: StageConfig, encoder_lr_scale: float = 1.0, layer_lr_decay: float = 1.0
) -> optax.GradientTransformationExtraArgs:
  """Return AdamW after clipping by the global norm; only matrices decay.

  `update` also takes the loss as `value`: with `config.skip_spikes` it skips steps
  whose loss is far above the recent ones.

  encoder_lr_scale: learning rate of the encoder over that of other parameters.
  layer_lr_decay: learning rate of a layer of the encoder over that of the layer above.

  Equal arguments return the same object, for which `jit` compiles once.
  """
  parts = [
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate_schedule(config),
      b2=0.98,
      weight_decay=config.weight_decay,
      mask=_is_matrix,
    ),
    optax.masked(optax.scale(encoder_lr_scale), _is_encoder),
  ]
  if layer_lr_decay != 1:
    parts.append(_scale_layers(layer_lr_decay))
  optimizer = optax.chain(*parts)
  if config.skip_spikes:
    return skip_spikes(optimizer)
  return optax.with_extra_args_support(optimizer)


def _is_matrix(params):
  """Mask of the matrices, without counting the layer axis of stacked layers."""

  def is_matrix(path, leaf) -> bool:
    stacked = any(str(getattr(key, 'key', '')).endswith('layers') for key in path)
    return leaf.ndim - stacked > 1

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def _scale_layers(decay: float) -> optax.GradientTransformation:
  """Scale the updates of the encoder by `decay` for every layer above theirs.

  What precedes the layers counts as one more layer below them.
  """

  def scale(updates, params):
    del params
    encoder = [
      (_names(path), leaf)
      for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
      if _names(path)[0] == 'encoder'
    ]
    depths = {leaf.shape[0] for names, leaf in encoder if 'layers' in names}
    assert len(depths) <= 1, 'the layers of the encoder are stacked'
    depth = max(depths, default=0)
    powers = decay ** np.arange(depth - 1, -1, -1)

    def scale_leaf(path, leaf):
      names = _names(path)
      if names[0] != 'encoder' or 'layer_norm' in names:
        return leaf  # Whisper's last norm is above all layers
      if 'layers' in names:
        shape = (depth, *[1] * (leaf.ndim - 1))
        return leaf * powers.astype(leaf.dtype).reshape(shape)
      return leaf * decay**depth

    return jax.tree_util.tree_map_with_path(scale_leaf, updates)

  return optax.stateless(scale)


def _names(path) -> list[str]:
  return [str(getattr(key, 'key', '')) for key in path]


def _is_encoder(params):
  """Mask of the encoder's parameters."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[0], 'key', None) == 'encoder', params
  )
