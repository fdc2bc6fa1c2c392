# SPDX-License-Identifier: Apache-2.0
"""The whole model: an encoder hears, an adapter translates, a frozen Llama answers.

A prompt is tokens with places for audio. Whatever stands there, the LLM reads one
sequence of embeddings and is not told where each came from.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.adapters import Stride
from acl_jax.models.conformer import Conformer
from acl_jax.models.conformer_ctc import ConformerCTC
from acl_jax.models.ctc import CTC
from acl_jax.models.llama import Llama
from acl_jax.models.whisper import Whisper

Encoder = Whisper | Conformer | ConformerCTC


class Prompt(NamedTuple):
  """Rows of text and places for audio, laid out by `data_pipeline.batches`.

  place: where a position holds audio, its index among all audio embeddings of the batch
    (clip times slots plus slot); -1 where it holds the token.
  """

  tokens: Int[Array, 'b t']
  place: Int[Array, 'b t']
  valid: Bool[Array, 'b t']


class SpeechLLM(nnx.Module):
  """Encoder, adapter and LLM."""

  def __init__(self, encoder: Encoder, adapter: CTC | Stride, llama: Llama):
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
    if isinstance(self.adapter, CTC):
      return self.adapter.greedy(frames, valid, self.llama.embed_tokens[...])
    if isinstance(self.encoder, ConformerCTC):
      return self.encoder.greedy(frames, valid)
    return None

  def splice(
    self,
    prompt: Prompt,
    audio: Float[Array, 'a s e'],
    audio_valid: Bool[Array, 'a s'],
  ) -> tuple[Float[Array, 'b t e'], Bool[Array, 'b t']]:
    """The prompt as embeddings. An audio place that no embedding fills is not valid."""
    text = self.llama.embed(prompt.tokens)
    if audio.size == 0:  # a place that nobody fills, to read from
      audio, audio_valid = jnp.zeros((1, 1, text.shape[-1])), jnp.zeros((1, 1), bool)
    heard = prompt.place >= 0
    place = jnp.maximum(prompt.place, 0)
    spoken = audio.reshape(-1, audio.shape[-1])[place].astype(text.dtype)
    valid = prompt.valid & (~heard | audio_valid.reshape(-1)[place])
    x = jnp.where(heard[..., None], spoken, text)
    return jnp.where(valid[..., None], x, 0), valid

  def read(
    self,
    x: Float[Array, 'b t e'],
    valid: Bool[Array, 'b t'],
    remat: str | None = None,
    prefix: Int[Array, ' p'] | None = None,
  ) -> Float[Array, 'b t e']:
    """The LLM's hidden states: causal, and blind to what is not valid.

    prefix: text that every row begins with, and that is read but once.
    """
    positions, mask = causal(valid)
    shared = None
    if prefix is not None and prefix.size:
      start = self.llama.embed(prefix[None]).astype(x.dtype)
      _, shared = self.llama(start, *causal(jnp.ones((1, prefix.size), bool)))
      positions += prefix.size
      mask = jnp.pad(mask, ((0, 0), (0, 0), (prefix.size, 0)), constant_values=True)
    hidden, _ = self.llama(x, positions, mask, remat=remat, prefix=shared)
    return hidden


def causal(valid: Bool[Array, 'b t']) -> tuple[Int[Array, 'b t'], Bool[Array, 'b t t']]:
  """Positions that count valid inputs only, and who may see whom."""
  t = valid.shape[1]
  positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  earlier = jnp.tril(jnp.ones((t, t), bool))
  return positions, earlier[None] & valid[:, None, :]
