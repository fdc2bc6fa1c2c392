# SPDX-License-Identifier: Apache-2.0
"""A Conformer that recognises by itself, as CTC pretraining leaves it."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.conformer import Conformer, ConformerConfig, Encoded
from acl_jax.models.ctc import ctc_segments
from acl_jax.models.layers import Linear
from acl_jax.models.spelling import NUM_LETTERS


class ConformerCTC(nnx.Module):
  """An encoder and its head; the last class is CTC's blank, as Parakeet has it."""

  def __init__(self, config: ConformerConfig, vocab_size: int, *, rngs: nnx.Rngs):
    self.encoder = Conformer(config, rngs=rngs)
    shape, scale = (config.hidden_size, vocab_size), config.hidden_size**-0.5
    self.ctc_head = Linear(shape, ('embed', 'classes'), scale=scale, rngs=rngs)

  @property
  def config(self) -> ConformerConfig:
    """The encoder's."""
    return self.encoder.config

  def __call__(self, log_mel: Float[Array, 'b t m'], valid: Bool[Array, 'b t']):
    """As `Conformer.__call__`."""
    return self.encoder(log_mel, valid)

  def encode(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    key: Array | None = None,
    train_norm: bool = False,
    remat: str | None = None,
  ) -> Encoded:
    """As `Conformer.encode`."""
    return self.encoder.encode(log_mel, segment_ids, key, train_norm, remat)

  def logits(self, frames: Float[Array, 'b u d']) -> Float[Array, 'b u v']:
    """The scores of every frame, float32."""
    return self.ctc_head(frames).astype(jnp.float32)

  def greedy(
    self, frames: Float[Array, 'b u d'], valid: Bool[Array, 'b u']
  ) -> Int[Array, 'b u']:
    """The hard decision: a class where it starts, -1 elsewhere."""
    logits = self.logits(frames)
    start, _ = ctc_segments(blank_first(logits), valid)
    return jnp.where(start, jnp.argmax(logits, axis=-1), -1)


class LetterHead(nnx.Module):
  """CTC's scores of letters from a middle layer, which only pretraining looks at.

  Letters are few and frequent, so they are learnt long before the pieces that they
  spell, and the layers above find them done (Sanabria and Metze 2018). More of them are
  spoken than there are frames: a frame is read as `per_frame` shorter ones.
  """

  def __init__(self, hidden_size: int, per_frame: int, *, rngs: nnx.Rngs):
    self.per_frame = per_frame
    shape, scale = (hidden_size, per_frame * (1 + NUM_LETTERS)), hidden_size**-0.5
    self.linear = Linear(shape, ('embed', 'classes'), scale=scale, rngs=rngs)

  def __call__(
    self, frames: Float[Array, 'a u d'], valid: Bool[Array, 'a u']
  ) -> tuple[Float[Array, 'a r p'], Bool[Array, 'a r']]:
    """Scores of blank and letters, float32, and which shorter frames are signal."""
    logits = self.linear(frames).astype(jnp.float32)
    a, u = valid.shape
    logits = logits.reshape(a, u * self.per_frame, -1)
    return logits, jnp.repeat(valid, self.per_frame, axis=1)


def blank_first(logits: Float[Array, 'b u v']) -> Float[Array, 'b u v']:
  """Classes in the order of our losses, whose blank is the first."""
  return jnp.roll(logits, 1, axis=-1)
