# SPDX-License-Identifier: Apache-2.0
"""The whole model: audio encoder, adapter and frozen Llama.

A prompt is a sequence of tokens with positions for audio. The LLM gets one sequence of
embeddings, without any mark of which came from audio.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models import splash
from acl_jax.models.layers import segment_mask
from acl_jax.models.llama import Llama
from acl_jax.models.protocols import Adapter, Encoder
from acl_jax.models.recognition import Recognition


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

  def __init__(self, encoder: Encoder, adapter: Adapter, llama: Llama):
    self.encoder = encoder
    self.adapter = adapter
    self.llama = llama

  def encode_audio(
    self, log_mel: Float[Array, 'a t m'], frame_mask: Bool[Array, 'a t']
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Encode log-mel frames; returns embeddings in the LLM's space, and their mask."""
    return self.adapt(*self.encoder(log_mel, frame_mask))

  def adapt(
    self, frames: Float[Array, 'a t d'], frame_mask: Bool[Array, 'a t']
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Adapt encoder frames; returns embeddings in the LLM's space, and their mask."""
    return self.adapter(frames, frame_mask, self.llama.embed_tokens[...])

  def adapt_rows(
    self, frames: Float[Array, 'a t d'], frame_mask: Bool[Array, 'a t'], rows: int
  ) -> tuple[Float[Array, 'b s e'], Bool[Array, 'b s']]:
    """As `adapt`, with the embeddings of the a / b utterances of each row joined."""
    clips, mask = self.adapt(frames, frame_mask)
    return clips.reshape(rows, -1, clips.shape[-1]), mask.reshape(rows, -1)

  def greedy(
    self, frames: Float[Array, 'a t d'], frame_mask: Bool[Array, 'a t']
  ) -> Int[Array, 'a r'] | None:
    """Decode greedily: class ids, -1 between them; None if no part recognises.

    The classes are tokens of the LLM from a CTC adapter, otherwise pieces from the
    encoder's own CTC head.
    """
    tokens = self.adapter.greedy(frames, frame_mask, self.llama.embed_tokens[...])
    return self.encoder.greedy(frames, frame_mask) if tokens is None else tokens

  def recognise(
    self, frames: Float[Array, 'a t d'], frame_mask: Bool[Array, 'a t']
  ) -> Recognition:
    """Return what `adapt` and `greedy` return, with log-probabilities, at once."""
    heard = self.adapter.recognise(frames, frame_mask, self.llama.embed_tokens[...])
    if heard.tokens is None:
      return heard._replace(tokens=self.encoder.recognise(frames, frame_mask))
    return heard

  def splice(
    self,
    prompt: Prompt,
    audio: Float[Array, 'b s e'],
    audio_mask: Bool[Array, 'b s'],
  ) -> tuple[Float[Array, 'b t e'], Int[Array, 'b t']]:
    """Insert audio embeddings into a prompt; returns its embeddings and segment ids.

    Segment ids are 0 at audio positions whose embedding is masked.
    """
    text = self.llama.embed(prompt.tokens)
    is_audio = prompt.audio_index >= 0
    if audio.shape[1] == 0:  # nothing to gather from
      ids = jnp.where(is_audio, 0, prompt.segment_ids)
      return jnp.where(ids[..., None] > 0, text, 0), ids
    index = jnp.maximum(prompt.audio_index, 0)
    gathered = jnp.take_along_axis(audio, index[..., None], axis=1).astype(text.dtype)
    missing = is_audio & ~jnp.take_along_axis(audio_mask, index, axis=1)
    ids = jnp.where(missing, 0, prompt.segment_ids)
    x = jnp.where(is_audio[..., None], gathered, text)
    return jnp.where(ids[..., None] > 0, x, 0), ids

  def hidden_states(
    self,
    x: Float[Array, 'b t e'],
    segment_ids: Int[Array, 'b t'],
    remat: str | None = None,
    shared_prefix: Int[Array, ' p'] | None = None,
    max_per_row: int = 1,
  ) -> Float[Array, 'b t e']:
    """Return the LLM's hidden states of packed prompts.

    Attention is causal, and ignores padding and other prompts of the row.

    remat: see `Llama`. shared_prefix: tokens that precede every prompt; they are run
    once. max_per_row: limit on the prompts of a row.
    """
    positions, mask = causal_segment_mask(segment_ids)
    prefix_cache = None
    if shared_prefix is not None and shared_prefix.size:
      p = shared_prefix.size
      prefix = self.llama.embed(shared_prefix[None]).astype(x.dtype)
      _, prefix_cache = self.llama(prefix, *causal_segment_mask(jnp.ones((1, p), int)))
      positions += p
      mask = jnp.pad(mask, ((0, 0), (0, 0), (p, 0)), constant_values=True)
    if splash.is_available():
      mask = splash.PackedCausalMask(segment_ids, max_per_row)
    hidden, _ = self.llama(x, positions, mask, remat=remat, prefix_cache=prefix_cache)
    return hidden


def causal_segment_mask(
  segment_ids: Int[Array, 'b t'],
) -> tuple[Int[Array, 'b t'], Bool[Array, 'b t t']]:
  """Return positions within each segment, and the causal mask within segments."""
  t = segment_ids.shape[1]
  mask = jnp.tril(jnp.ones((t, t), bool))[None] & segment_mask(segment_ids)
  return jnp.maximum(jnp.sum(mask, axis=-1) - 1, 0), mask
