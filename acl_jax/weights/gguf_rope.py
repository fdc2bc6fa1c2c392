# SPDX-License-Identifier: Apache-2.0
"""The scaling of rotary positions in GGUF files: keys, or one factor per frequency."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acl_jax.models.llama import LlamaConfig
from acl_jax.models.rope import RopeScaling
from acl_jax.weights.tensor import Tensor

ROPE_FACTORS = 'rope_freqs.weight'
SCALING_FIELDS = {
  'rope.scale_linear': 'scale_linear',  # of files of 2023
  'rope.scaling.type': 'rope_type',
  'rope.scaling.factor': 'factor',
  'rope.scaling.original_context_length': 'original_max_position_embeddings',
  'rope.scaling.yarn_beta_fast': 'beta_fast',
  'rope.scaling.yarn_beta_slow': 'beta_slow',
  'rope.scaling.yarn_log_multiplier': 'mscale_all_dim',
}
KINDS = ('none', 'linear', 'yarn')
# What Llama 3 uses, except for its factor and its positions of training.
LOW_FREQ_FACTOR, HIGH_FREQ_FACTOR = 1.0, 4.0


def read_rope_scaling(
  config: LlamaConfig,
  scaling: Mapping[str, Any],
  factors: Tensor | None,
  path: Path,
) -> LlamaConfig:
  """Return `config` with the scaling that a file defines, as llama.cpp reads it.

  scaling: values of `SCALING_FIELDS`, None where absent. factors: the tensor by whose
  values frequencies are divided. ValueError if the scaling is not supported.
  """
  scaling = _check_types(scaling, path)
  kind = scaling['rope_type']
  factor = scaling['factor'] or scaling['scale_linear']
  if kind is None:
    kind = 'linear' if factor else 'none'
  if kind not in KINDS:
    raise ValueError(
      f'{path}: rope.scaling.type is {kind!r:.60}; supported are {", ".join(KINDS)}'
    )
  if kind != 'none' and (factors or not factor):
    problem = f'stands beside {ROPE_FACTORS}' if factors else 'has no factor'
    raise ValueError(f'{path}: rope.scaling.type = {kind} {problem}')
  try:
    if factors:
      return _scaled(config, _read_factors(config, factors))
    if kind == 'none' or (kind == 'linear' and factor == 1):
      return config
    if kind == 'linear':
      return _scaled(config, RopeScaling('linear', factor=factor))
    return _scaled(config, _yarn(scaling | {'factor': factor}))
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from None


def _check_types(scaling: Mapping[str, Any], path: Path) -> dict[str, Any]:
  """Return the fields with numbers as floats; ValueError if one is no number."""
  checked = dict(scaling)
  for name, value in scaling.items():
    if name == 'rope_type' or value is None:
      continue
    is_count = name == 'original_max_position_embeddings'
    if isinstance(value, bool) or not isinstance(
      value, int if is_count else int | float
    ):
      raise ValueError(f'{path}: {name} = {value!r:.60} is not a number')
    checked[name] = value if is_count else float(value)
  return checked


def _scaled(config: LlamaConfig, scaling: RopeScaling) -> LlamaConfig:
  return dataclasses.replace(config, rope_scaling=scaling)


def _yarn(scaling: Mapping[str, Any]) -> RopeScaling:
  names = ('factor', 'original_max_position_embeddings', 'beta_fast', 'beta_slow')
  fields = {name: scaling[name] for name in names}
  if scaling['mscale_all_dim']:
    fields |= {'mscale': 1.0, 'mscale_all_dim': scaling['mscale_all_dim']}
  return RopeScaling('yarn', **fields)


def _read_factors(config: LlamaConfig, tensor: Tensor) -> RopeScaling:
  """Return Llama 3's scaling if it has these factors, otherwise one that lists them."""
  if tensor.shape != (half := (config.head_dim // 2,)):
    raise ValueError(f'tensor {ROPE_FACTORS} has shape {tensor.shape}, not {half}')
  factors = tensor.read().astype(np.float32)
  if not (np.isfinite(factors) & (factors > 0)).all():
    raise ValueError(f'tensor {ROPE_FACTORS} has values that are not positive numbers')
  factor = float(factors.max())
  for original in (8192, *(1 << n for n in range(4, 18))):
    expected = llama3_factors(config, factor, original)
    if factor >= 1 and np.allclose(factors, expected, rtol=1e-5):
      return RopeScaling(
        'llama3',
        factor=factor,
        low_freq_factor=LOW_FREQ_FACTOR,
        high_freq_factor=HIGH_FREQ_FACTOR,
        original_max_position_embeddings=original,
      )
  listed = tuple(map(float, factors))
  return RopeScaling(
    'longrope', short_factor=listed, long_factor=listed, attention_factor=1.0
  )


def llama3_factors(config: LlamaConfig, factor: float, original: int) -> np.ndarray:
  """Return what Llama 3 divides each frequency by, as llama.cpp's converter does."""
  pairs = np.arange(config.head_dim // 2)
  frequency = config.rope_theta ** (-2 * pairs / config.head_dim)
  turns = original * frequency / (2 * np.pi)
  smooth = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR)
  smooth = np.clip(smooth, 0, 1)
  return 1 / ((1 - smooth) / factor + smooth)
