# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings, scaled for positions beyond training as in Transformers.

`dynamic` and `longrope` depend on the length of a sequence. Here it is that of each row
of a call: one more than its largest position. A row of one sequence has Transformers'
embeddings, in a forward pass as in decoding. Only within the length of training do
packing and a KV cache change nothing, because beyond it a key keeps the frequencies of
the call that wrote it, in Transformers, too.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# The fields that each kind needs, and those that it may have.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'linear': (('factor',), ()),
  'dynamic': (('factor',), ()),
  'llama3': (
    ('factor', 'low_freq_factor', 'high_freq_factor'),
    ('original_max_position_embeddings',),
  ),
  'yarn': (
    (),
    (
      'factor',
      'original_max_position_embeddings',
      'attention_factor',
      'beta_fast',
      'beta_slow',
      'mscale',
      'mscale_all_dim',
      'truncate',
    ),
  ),
  'longrope': (
    ('short_factor', 'long_factor'),
    ('factor', 'original_max_position_embeddings', 'attention_factor'),
  ),
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How frequencies are scaled, by Hugging Face's names; None where unused."""

  kind: str  # `rope_type`: linear, dynamic, llama3, yarn or longrope
  factor: float | None = None  # None: max_position_embeddings / those of training
  low_freq_factor: float | None = None
  high_freq_factor: float | None = None
  original_max_position_embeddings: int | None = None  # of training; None: the model's
  beta_fast: float | None = None
  beta_slow: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  attention_factor: float | None = None  # of cosines and sines
  truncate: bool | None = None
  short_factor: tuple[float, ...] | None = None
  long_factor: tuple[float, ...] | None = None

  def __post_init__(self):
    if self.kind not in FIELDS:
      raise ValueError(
        f'rope_type is {self.kind!r:.60}; supported are default, {", ".join(FIELDS)}'
      )
    needed, optional = FIELDS[self.kind]
    for name, value in self.fields.items():
      if name not in needed + optional:
        raise ValueError(f'{name} has no meaning for the rope_type {self.kind}')
      values = value if isinstance(value, tuple) else (value,)
      if name != 'truncate' and not all(0 < v < math.inf for v in values):
        raise ValueError(f'{name} = {value!r:.60} is not positive and finite')
    for name in needed:
      if getattr(self, name) is None:
        raise ValueError(f'{name} is missing for the rope_type {self.kind}')
    if self.factor is not None and self.factor < 1:
      raise ValueError(f'factor = {self.factor} of rope_scaling is below 1')
    low, high = self.low_freq_factor or 0, self.high_freq_factor or math.inf
    if low >= high:
      raise ValueError(
        f'low_freq_factor = {low} is not below high_freq_factor = {high}'
      )
    slow, fast = self.beta_slow or 1.0, self.beta_fast or 32.0
    if slow >= fast:
      raise ValueError(f'beta_slow = {slow} is not below beta_fast = {fast}')

  @property
  def fields(self) -> dict[str, Any]:
    """The fields that are used, without `kind`."""
    fields = dataclasses.asdict(self)
    return {k: v for k, v in fields.items() if k != 'kind' and v is not None}


@dataclasses.dataclass(frozen=True)
class Rope:
  """The rotary embeddings of a model; max_positions: its max_position_embeddings."""

  head_dim: int
  theta: float
  max_positions: int
  scaling: RopeScaling | None = None

  def __post_init__(self):
    scaling, half = self.scaling, self.head_dim // 2
    if scaling is None:
      return
    for name in ('short_factor', 'long_factor'):
      values = getattr(scaling, name)
      if values is not None and len(values) != half:
        raise ValueError(
          f'{name} has {len(values)} values; head_dim = {self.head_dim} needs {half}'
        )
    if scaling.kind == 'dynamic' and self.head_dim == 2:
      raise ValueError('head_dim = 2 is too small for the rope_type dynamic')
    if scaling.kind == 'yarn' and self.theta <= 1:
      raise ValueError(f'rope_theta = {self.theta} is not above 1; yarn needs that')
    if scaling.kind == 'longrope' and self.original_positions == 1:
      raise ValueError('original_max_position_embeddings = 1 is too small for longrope')

  @property
  def original_positions(self) -> int:
    """The positions that training had."""
    original = self.scaling and self.scaling.original_max_position_embeddings
    return original or self.max_positions

  @property
  def factor(self) -> float:
    """How much longer sequences are than those of training."""
    factor = self.scaling and self.scaling.factor
    return factor or self.max_positions / self.original_positions

  def __call__(
    self, x: Float[Array, 'b t n h'], positions: Int[Array, 'b t']
  ) -> Float[Array, 'b t n h']:
    """Rotate pairs (i, i + h/2) by their position, as Hugging Face's Llama."""
    frequency, scale = self.frequencies(positions), self.attention_scale()
    # float32: bfloat16 has no fractional bits for angles of thousands of radians
    angle = positions.astype(jnp.float32)[:, :, None, None] * frequency[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if scale != 1:
      cos, sin = cos * scale, sin * scale
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    y = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(y, axis=-1).astype(x.dtype)

  def frequencies(self, positions: Int[Array, 'b t']) -> Any:
    """Return radians per position, float32 [b h/2], or [1 h/2] if all rows share them.

    Rounded as PyTorch rounds: an error in the last bit grows with the position.
    """
    s, half = self.scaling, self.head_dim // 2
    exponent = (np.arange(half, dtype=np.float32) / np.float32(half)).astype(np.float64)
    period = (self.theta**exponent).astype(np.float32)[None]
    if s is None:
      return 1 / period
    if s.kind == 'linear':
      return 1 / period / np.float32(self.factor)
    if s.kind == 'llama3':
      return self._llama3(1 / period)
    if s.kind == 'yarn':
      return self._yarn(period)
    length = jnp.max(positions, axis=1, keepdims=True) + 1
    if s.kind == 'longrope':
      short, long = (
        1 / (np.array([factors], np.float32) * period)
        for factors in (s.short_factor, s.long_factor)
      )
      return jnp.where(length > self.original_positions, long, short)
    longer = jnp.maximum(length, self.max_positions).astype(jnp.float32)
    stretch = self.factor * longer / self.max_positions - (self.factor - 1)
    theta = self.theta * stretch ** (self.head_dim / (self.head_dim - 2))
    return 1 / theta ** exponent.astype(np.float32)[None]

  def attention_scale(self) -> float:
    """Return the factor of all cosines and sines."""
    s = self.scaling
    if s is None or s.kind not in ('yarn', 'longrope'):
      return 1.0
    if s.attention_factor is not None:
      return s.attention_factor
    if self.factor <= 1:
      return 1.0
    if s.kind == 'longrope':
      return math.sqrt(1 + math.log(self.factor) / math.log(self.original_positions))

    def magnitude(mscale: float) -> float:
      return 0.1 * mscale * math.log(self.factor) + 1

    if s.mscale and s.mscale_all_dim:
      return magnitude(s.mscale) / magnitude(s.mscale_all_dim)
    return magnitude(1.0)

  def _llama3(self, frequency: np.ndarray) -> np.ndarray:
    """Divide low frequencies by the factor, and interpolate up to the high ones."""
    s, original = self.scaling, np.float32(self.original_positions)
    assert s is not None and s.low_freq_factor and s.high_freq_factor
    low, high = s.low_freq_factor, s.high_freq_factor
    # PyTorch divides a number by an array as the product with the reciprocal.
    wavelength = (1 / frequency) * np.float32(2 * math.pi)
    smooth = (1 / wavelength) * original - np.float32(low)
    smooth = smooth / np.float32(high - low)
    factor = np.float32(self.factor)
    between = (1 - smooth) * frequency / factor + smooth * frequency
    scaled = np.where(wavelength > original / low, frequency / factor, between)
    return np.where(wavelength < original / high, frequency, scaled)

  def _yarn(self, period: np.ndarray) -> np.ndarray:
    """Divide low frequencies by the factor, with a linear ramp between two pairs."""
    s, h = self.scaling, self.head_dim
    assert s is not None

    def pair_of(rotations: float) -> float:
      """The pair that turns this often within the positions of training."""
      turns = self.original_positions / (rotations * 2 * math.pi)
      return h * math.log(turns) / (2 * math.log(self.theta))

    low, high = pair_of(s.beta_fast or 32.0), pair_of(s.beta_slow or 1.0)
    if s.truncate is not False:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, h - 1)
    if low == high:
      high += 0.001  # as Transformers does
    pairs = np.arange(h // 2, dtype=np.float32)[None]
    ramp = np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = 1 - ramp
    return 1 / (np.float32(self.factor) * period) * (1 - keep) + 1 / period * keep
