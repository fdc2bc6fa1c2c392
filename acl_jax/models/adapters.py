# SPDX-License-Identifier: Apache-2.0
"""From encoder frames to embeddings that the LLM reads, two ways behind one interface:

  adapter(frames, valid, table) -> (embeddings, valid)

`Stride`, here, stacks k frames and projects them: the paper's way. `ctc.CTC` recognises
tokens of the LLM's own vocabulary and hands over one expected embedding per token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import ones, param, rms_norm

EPS = 1e-6


def stack_frames(
  frames: Float[Array, 'a t d'], valid: Bool[Array, 'a t'], k: int
) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
  """Every k frames side by side as one; the last is filled with zeros. e = k d."""
  frames = jnp.where(valid[..., None], frames, 0)
  a, t, d = frames.shape
  extra = -t % k
  frames = jnp.pad(frames, ((0, 0), (0, extra), (0, 0)))
  return frames.reshape(a, (t + extra) // k, k * d), valid[:, ::k]


@dataclasses.dataclass(frozen=True)
class StrideAdapterConfig:
  """Sizes of `Stride`; without a `hidden_size` it is one linear map."""

  stack: int
  encoder_size: int
  hidden_size: int | None
  llm_size: int


class StrideAdapter(nnx.Module):
  """k frames stacked, then a linear map, or the projector of Ultravox.

  That projector is RMSNorm, linear, SwiGLU, RMSNorm, linear; its names are kept.
  """

  def __init__(self, config: StrideAdapterConfig, *, rngs: nnx.Rngs):
    self.config = config
    inputs, hidden = config.stack * config.encoder_size, config.hidden_size
    if hidden is None:
      self.linear = param(rngs, (inputs, config.llm_size), ('embed', 'llm'))
      return
    self.ln_pre = ones(inputs)
    self.linear_1 = param(rngs, (inputs, hidden), ('embed', 'mlp'))
    self.ln_mid = ones(hidden // 2)
    self.linear_2 = param(rngs, (hidden // 2, config.llm_size), ('mlp', 'llm'))

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    valid: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """One embedding per k frames; `table` is not needed."""
    del table
    x, valid = stack_frames(frames, valid, self.config.stack)
    if self.config.hidden_size is None:
      return x @ self.linear[...], valid
    x = rms_norm(x, self.ln_pre[...], EPS) @ self.linear_1[...]
    x, gate = jnp.split(x, 2, axis=-1)
    x = rms_norm(x * jax.nn.silu(gate), self.ln_mid[...], EPS)
    return x @ self.linear_2[...], valid
