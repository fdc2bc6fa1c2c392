# SPDX-License-Identifier: Apache-2.0
"""What encoders without a CTC head share."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int


class Tower(nnx.Module):
  """An encoder without a CTC head; a subclass defines `encode_rows`."""

  recognises = False
  config: Any

  @property
  def tower(self) -> 'Tower':
    """The encoder itself."""
    return self

  def encode_rows(
    self,
    log_mel: Float[Array, 'b t m'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None,
  ) -> Float[Array, 'b u d']:
    """See `protocols.Encoder`."""
    raise NotImplementedError

  def __call__(
    self, log_mel: Float[Array, 'b t m'], frame_mask: Bool[Array, 'b t']
  ) -> tuple[Float[Array, 'b u d'], Bool[Array, 'b u']]:
    """Encode one utterance a row; returns encoder frames and their mask."""
    config = self.config
    if log_mel.shape[1] > config.max_frames:
      raise ValueError(
        f'audio has {log_mel.shape[1]} frames; the limit of the encoder is'
        f' {config.max_frames}'
      )
    frames = self.encode_rows(log_mel, frame_mask.astype(jnp.int32), None)
    return frames, frame_mask[:, :: config.subsampling]

  def greedy(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u']
  ) -> None:
    """Return nothing: it does not recognise."""
    del frames, frame_mask

  def recognise(
    self, frames: Float[Array, 'b u d'], frame_mask: Bool[Array, 'b u']
  ) -> None:
    """Return nothing: it does not recognise."""
    del frames, frame_mask
