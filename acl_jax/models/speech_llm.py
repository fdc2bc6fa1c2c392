# SPDX-License-Identifier: Apache-2.0
"""The whole model: an encoder hears, an adapter translates, a frozen Llama answers.

A prompt is tokens with places for audio. Whatever stands there, the LLM reads one
sequence of embeddings and is not told where each came from.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models import splash
from acl_jax.models.adapters import StrideAdapter
from acl_jax.models.conformer import Conformer
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.ctc import CTCAdapter
from acl_jax.models.layers import segment_mask
from acl_jax.models.llama import Llama
from acl_jax.models.whisper import Whisper

Encoder = Whisper | Conformer | ConformerCTC


class Prompt(NamedTuple):
  """Rows of tokens with positions for audio, laid out by `text.layout`.

  audio_index: for a position that holds audio, the index of its embedding among those
    of the row; -1 for a token. segment_ids: which prompt of the row a position belongs
    to, from 1; 0 is padding. Prompts that share a row do not attend to each other.
  """

  tokens: Int[Array, 'b t']
  audio_index: Int[Array, 'b t']
  segment_ids: Int[Array, 'b t']


class SpeechLLM(nnx.Module):
  """Encoder, adapter and LLM."""

  def __init__(
    self, encoder: Encoder, adapter: CTCAdapter | StrideAdapter, llama: Llama
  ):
    self.encoder = encoder
    self.adapter = adapter
    self.llama = llama

  def hear(
    self, log_mel: Float[Array, 'a t m'], valid: Bool[Array, 'a t']
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Log-mel frames -> embeddings in the LLM's space, and which of them are any."""
    return self.adapt(*self.encoder(log_mel, valid))

  def adapt(
    self, frames: Float[Array, 'a t d'], valid: Bool[Array, 'a t']
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Encoder frames -> embeddings in the LLM's space, and which of them are any."""
    return self.adapter(frames, valid, self.llama.embed_tokens[...])

  def greedy(
    self, frames: Float[Array, 'a t d'], valid: Bool[Array, 'a t']
  ) -> Int[Array, 'a r'] | None:
    """The hard decision of whichever part recognises: class ids, -1 between them.

    Tokens of the LLM from a CTC adapter, or else pieces from the encoder's own head.
    """
    if isinstance(self.adapter, CTCAdapter):
      return self.adapter.greedy(frames, valid, self.llama.embed_tokens[...])
    if isinstance(self.encoder, ConformerCTC):
      return self.encoder.greedy(frames, valid)
    return None

  def splice(
    self,
    prompt: Prompt,
    audio: Float[Array, 'b s e'],
    audio_mask: Bool[Array, 'b s'],
  ) -> tuple[Float[Array, 'b t e'], Int[Array, 'b t']]:
    """The prompt as embeddings, and its segment ids, 0 where no embedding came."""
    text = self.llama.embed(prompt.tokens)
    heard = prompt.audio_index >= 0
    if audio.shape[1] == 0:  # there is nothing to take from
      ids = jnp.where(heard, 0, prompt.segment_ids)
      return jnp.where(ids[..., None] > 0, text, 0), ids
    place = jnp.maximum(prompt.audio_index, 0)
    spoken = jnp.take_along_axis(audio, place[..., None], axis=1).astype(text.dtype)
    missing = heard & ~jnp.take_along_axis(audio_mask, place, axis=1)
    ids = jnp.where(missing, 0, prompt.segment_ids)
    x = jnp.where(heard[..., None], spoken, text)
    return jnp.where(ids[..., None] > 0, x, 0), ids

  def read(
    self,
    x: Float[Array, 'b t e'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None = None,
    prefix: Int[Array, ' p'] | None = None,
    per_row: int = 1,
  ) -> Float[Array, 'b t e']:
    """The LLM's hidden states: causal, and blind to padding and to other prompts.

    prefix: text that every prompt begins with, and that is read but once.
    per_row: prompts of a row at most.
    """
    positions, mask = causal_segment_mask(segment_ids)
    shared = None
    if prefix is not None and prefix.size:
      start = self.llama.embed(prefix[None]).astype(x.dtype)
      _, shared = self.llama(
        start, *causal_segment_mask(jnp.ones((1, prefix.size), int))
      )
      positions += prefix.size
      mask = jnp.pad(mask, ((0, 0), (0, 0), (prefix.size, 0)), constant_values=True)
    if splash.is_available():
      mask = splash.PackedCausalMask(segment_ids, per_row)
    hidden, _ = self.llama(x, positions, mask, remat=remat, prefix=shared)
    return hidden


def causal_segment_mask(
  segment_ids: Int[Array, 'b t'],
) -> tuple[Int[Array, 'b t'], Bool[Array, 'b t t']]:
  """Positions that count what is before in the same segment, and who may see whom."""
  t = segment_ids.shape[1]
  mask = jnp.tril(jnp.ones((t, t), bool))[None] & segment_mask(segment_ids)
  return jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0), mask
