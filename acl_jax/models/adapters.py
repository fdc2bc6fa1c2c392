# SPDX-License-Identifier: Apache-2.0
"""Adapters from encoder frames to embeddings in the LLM's space:

  adapter(frames, frame_mask, table) -> (embeddings, mask)

`StrideAdapter`, here, stacks k frames and projects them, as the paper does.
`ctc.CTCAdapter` recognises tokens of the LLM's own vocabulary and returns one expected
embedding per token.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from acl_jax.models.layers import ones, param, rms_norm
from acl_jax.models.matrices import contract
from acl_jax.models.recognition import Recognition

EPS = 1e-6


def project(x: Float[Array, '*b i'], w: Any) -> Float[Array, '*b o']:
  """Multiply by a matrix in float32, in which adapters compute."""
  return contract(x.astype(jnp.float32), w)


def stack_frames(
  frames: Float[Array, 'a t d'], frame_mask: Bool[Array, 'a t'], k: int
) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
  """Concatenate every k frames; the last group is padded with zeros. e = k d."""
  frames = jnp.where(frame_mask[..., None], frames, 0)
  a, t, d = frames.shape
  padding = -t % k
  frames = jnp.pad(frames, ((0, 0), (0, padding), (0, 0)))
  return frames.reshape(a, (t + padding) // k, k * d), frame_mask[:, ::k]


@dataclasses.dataclass(frozen=True)
class StrideAdapterConfig:
  """Sizes of `StrideAdapter`; with `hidden_size` None it is one linear map."""

  stack: int
  encoder_size: int
  hidden_size: int | None
  llm_size: int


class StrideAdapter(nnx.Module):
  """Stacks k frames, then applies a linear map or the projector of Ultravox.

  That projector is RMSNorm, linear, SwiGLU, RMSNorm, linear; parameter names are its.
  """

  kind = 'stride'
  recognises = False
  letters = False
  reach = 0
  pretrained: tuple[str, ...] = ()

  def __init__(self, config: StrideAdapterConfig, *, rngs: nnx.Rngs):
    self.config = config
    inputs, hidden = config.stack * config.encoder_size, config.hidden_size
    if hidden is None:
      self.linear = param(rngs, (inputs, config.llm_size), ('embed', 'llm'), inputs=1)
      return
    self.ln_pre = ones(inputs)
    self.linear_1 = param(rngs, (inputs, hidden), ('embed', 'mlp'), inputs=1)
    self.ln_mid = ones(hidden // 2)
    shape = hidden // 2, config.llm_size
    self.linear_2 = param(rngs, shape, ('mlp', 'llm'), inputs=1)

  def token_ids(self) -> list[int]:
    """Return no tokens: it does not recognise."""
    return []

  def greedy(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> None:
    """Return nothing: it does not recognise."""
    del frames, frame_mask, table

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Return one embedding per k frames, and their mask; `table` is not used."""
    del table
    x, mask = stack_frames(frames, frame_mask, self.config.stack)
    if self.config.hidden_size is None:
      return project(x, self.linear), mask
    x = project(rms_norm(x, self.ln_pre[...], EPS), self.linear_1)
    x, gate = jnp.split(x, 2, axis=-1)
    x = rms_norm(x * jax.nn.silu(gate), self.ln_mid[...], EPS)
    return project(x, self.linear_2), mask

  def recognise(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Recognition:
    """As `__call__`; without tokens."""
    embeddings, mask = self(frames, frame_mask, table)
    starts = jnp.arange(mask.shape[1]) * self.config.stack
    return Recognition(
      embeddings, mask, jnp.broadcast_to(starts[None], mask.shape), None
    )
