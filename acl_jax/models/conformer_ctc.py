# SPDX-License-Identifier: Apache-2.0
"""A Conformer with a CTC head, as CTC pretraining trains it."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.conformer import Conformer, ConformerConfig, Encoded
from acl_jax.models.layers import Linear
from acl_jax.models.recognition import Tokens, ctc_segments, rank_segments
from acl_jax.models.spelling import NUM_LETTERS


class ConformerCTC(nnx.Module):
  """An encoder and its CTC head; the last class is the blank, as in Parakeet."""

  kind = 'conformer'
  recognises = True

  def __init__(self, config: ConformerConfig, vocab_size: int, *, rngs: nnx.Rngs):
    self.encoder = Conformer(config, rngs=rngs)
    shape, scale = (config.hidden_size, vocab_size), config.hidden_size**-0.5
    self.ctc_head = Linear(shape, ('embed', 'classes'), scale=scale, rngs=rngs)

  @property
  def config(self) -> ConformerConfig:
    """The encoder's config."""
    return self.encoder.config

  @property
  def tower(self) -> Conformer:
    """The encoder without its CTC head."""
    return self.encoder

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """As `Conformer.encode_rows`."""
    return self.encoder.encode_rows(log_mel, segment_ids, remat)

  def __call__(self, log_mel: Float[Array, 'b t m'], frame_mask: Bool[Array, 'b t']):
    """As `Conformer.__call__`."""
    return self.encoder(log_mel, frame_mask)

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
    """Return logits of every frame in float32."""
    return self.ctc_head(frames).astype(jnp.float32)

  def greedy(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u']
  ) -> Int[Array, 'b u']:
    """Decode greedily: the class of every CTC segment where it starts, -1 elsewhere."""
    logits = self.logits(frames)
    start, _ = ctc_segments(blank_first(logits), frame_mask)
    return jnp.where(start, jnp.argmax(logits, axis=-1), -1)

  def recognise(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u']
  ) -> Tokens:
    """Return the pieces that `greedy` returns, ranked, at the front of the slots."""
    logits = blank_first(self.logits(frames))
    _, segment = ctc_segments(logits, frame_mask)
    return rank_segments(logits, segment, jnp.arange(logits.shape[-1] - 1), 1)


class LetterHead(nnx.Module):
  """CTC logits of letters from an intermediate layer, used by pretraining only.

  Letters are few and frequent, so they are learnt long before the pieces that they
  spell, and the layers above build on them (Sanabria and Metze 2018). Speech has more
  letters than there are frames: each frame is split into `per_frame` shorter ones.
  """

  def __init__(self, hidden_size: int, per_frame: int, *, rngs: nnx.Rngs):
    self.per_frame = per_frame
    shape, scale = (hidden_size, per_frame * (1 + NUM_LETTERS)), hidden_size**-0.5
    self.linear = Linear(shape, ('embed', 'classes'), scale=scale, rngs=rngs)

  def __call__(
    self, frames: Float[Array, 'a u d'], frame_mask: Bool[Array, 'a u']
  ) -> tuple[Float[Array, 'a r p'], Bool[Array, 'a r']]:
    """Return float32 logits of blank and letters, and the shorter frames' mask."""
    logits = self.linear(frames).astype(jnp.float32)
    a, u = frame_mask.shape
    logits = logits.reshape(a, u * self.per_frame, -1)
    return logits, jnp.repeat(frame_mask, self.per_frame, axis=1)


def blank_first(logits: Float[Array, 'b u v']) -> Float[Array, 'b u v']:
  """Move the blank from the last class to the first, where the losses expect it."""
  return jnp.roll(logits, 1, axis=-1)
