# SPDX-License-Identifier: Apache-2.0
"""The attention adapter: a decoder writes tokens; each becomes an embedding.

  encoder frames ─► decoder, token by token ─► tokens of the LLM's vocabulary
    ─► one embedding per token: between the token's own embedding in the LLM's table
       and the expected embedding under the decoder's posterior, plus a projection of
       the decoder's state, which can tell the LLM what no token says

The decoder is Whisper's. Teacher-forced on transcripts it learns to recognise; from the
LLM's response it learns what helps the LLM.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.adapters import EPS
from acl_jax.models.alignment import align
from acl_jax.models.attention_decoder import AttentionDecoder, DecoderConfig, Memory
from acl_jax.models.layers import Constant, param, rms_norm, zeros
from acl_jax.models.matrices import lookup, score_rows
from acl_jax.models.recognition import Recognition, rank_tokens
from acl_jax.models.transcript_writer import END, MAX_BEAMS, write_transcripts

# Where the gate and the temperature start: mostly the hard token, and a posterior that
# is sharper than the decoder's, which serves an LLM without training best.
INITIAL_GATE = 2.0
INITIAL_TEMPERATURE = 0.5


@dataclasses.dataclass(frozen=True)
class AttentionAdapterConfig(DecoderConfig):
  """Sizes of `AttentionAdapter`."""

  stack: int  # encoder frames per token at least, which limits the tokens
  encoder_size: int
  start_length: int  # embeddings that start every sequence
  llm_size: int
  vocabulary_size: int  # tokens that it recognises, a subset of the LLM's
  beams: int = 1  # of the search for what to write; 1 is greedy

  def __post_init__(self):
    super().__post_init__()
    if self.start_length < 1:
      raise ValueError(f'start_length = {self.start_length} is not at least 1')
    if not 1 <= self.beams <= MAX_BEAMS:
      raise ValueError(f'beams = {self.beams} is not from 1 to {MAX_BEAMS}')


class AttentionAdapter(nnx.Module):
  """Recognised tokens as embeddings, written by a decoder that attends to the audio.

  Vocabulary entry i is class i + 1; class 0 is END.
  """

  kind = 'attention'
  recognises = True
  letters = False
  reach = None
  pretrained = ('decoder', 'embed_start', 'embed_tokens')

  def __init__(self, config: AttentionAdapterConfig, *, rngs: nnx.Rngs):
    self.config = config
    d = config.d_model
    self.decoder = AttentionDecoder(config, config.encoder_size, rngs=rngs)
    self.embed_start = param(rngs, (config.start_length, d), ('positions', 'embed'))
    # Rows of END and of the vocabulary, of inputs and outputs alike.
    shape = (config.vocabulary_size + 1, d)
    self.embed_tokens = param(rngs, shape, ('classes', 'embed'), inputs=1)
    self.gate = zeros(d)
    self.gate_bias = nnx.Param(jnp.full(1, INITIAL_GATE), axes=('classes',))
    self.log_temperature = nnx.Param(
      jnp.full(1, math.log(INITIAL_TEMPERATURE)), axes=('classes',)
    )
    self.linear = nnx.Param(jnp.zeros((d, config.llm_size)), axes=('embed', 'llm'))
    self.vocabulary = Constant(jnp.arange(config.vocabulary_size))

  def token_ids(self) -> list[int]:
    """Return the LLM's tokens that it can recognise."""
    return self.vocabulary[...].tolist()

  def states(
    self, memory: Memory, classes: Int[Array, 'a n']
  ) -> Float[Array, 'a n+1 d']:
    """Return the decoder's states that predict each class, and the one after them."""
    x = self._embed_sequence(classes)
    hidden, _ = self.decoder.decode(
      x, memory, self.decoder.empty_cache(memory, x.shape[1])
    )
    return hidden[:, self.config.start_length - 1 :]

  def spans(self, memory: Memory, classes: Int[Array, 'a n']) -> Int[Array, 'a n 2']:
    """Return the encoder frames of each class, as in `Tokens`."""
    _, weights = self.decoder.decode_and_attend(self._embed_sequence(classes), memory)
    weights = weights[:, self.config.start_length - 1 :]
    # END has the frames after the last token.
    num_classes = jnp.sum(classes != END, axis=1) + 1
    return align(weights, num_classes, memory.mask)[:, :-1]

  def _embed_sequence(self, classes: Int[Array, 'a n']) -> Float[Array, 'a m d']:
    x = lookup(self.embed_tokens, classes)
    start = self.embed_start[...].astype(x.dtype)
    start = jnp.broadcast_to(start[None], (len(x), *start.shape))
    x = jnp.concatenate([start, x], axis=1)
    self._check_length(x.shape[1])
    return x

  def scores(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    classes: Int[Array, 'a n'],
    candidates: Int[Array, ' w'],
  ) -> Float[Array, 'a n+1 c']:
    """Score END and `candidates` at every position of a transcript and after it.

    classes: the transcript, padded with END. candidates: entries of the vocabulary.
    c = w + 1.
    """
    hidden = self.states(self.decoder.attend_to(frames, frame_mask), classes)
    rows = lookup(self.embed_tokens, jnp.pad(candidates + 1, (1, 0)))
    return jnp.einsum('and,cd->anc', hidden, rows.astype(hidden.dtype))

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Return one embedding per token that the decoder writes, and their mask."""
    memory = self.decoder.attend_to(frames, frame_mask)
    return self._embed(*self._read(memory), table)

  def recognise(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Recognition:
    """As `__call__`, with the tokens; the decoder writes once for both."""
    memory = self.decoder.attend_to(frames, frame_mask)
    classes, hidden, logits = self._read(memory)
    embeddings, mask = self._embed(classes, hidden, logits, table)
    spans = self.spans(memory, classes)
    tokens = rank_tokens(logits, classes, self.vocabulary[...], spans)
    return Recognition(embeddings, mask, None, tokens)

  def _read(self, memory: Memory):
    """Return the classes that are written, and state and logits of each."""
    classes = self._write(jax.lax.stop_gradient(memory))
    hidden = self.states(memory, classes)[:, :-1]
    return classes, hidden, score_rows(hidden, self.embed_tokens)

  def _embed(
    self,
    classes: Int[Array, 'a s'],
    hidden: Float[Array, 'a s d'],
    logits: Float[Array, 'a s c'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Return the embeddings of written classes, and their mask."""
    table, logits = table[self.vocabulary[...]], logits[..., 1:]
    posterior = jax.nn.softmax(logits / jnp.exp(self.log_temperature[0]), axis=-1)
    hard = table[jnp.maximum(classes - 1, 0)]
    # Of unit scale, like what they add to: steps of the optimizer then change little.
    state = rms_norm(hidden, jnp.ones(hidden.shape[-1]), EPS)
    gate = jax.nn.sigmoid(state @ self.gate[...] + self.gate_bias[0])[..., None]
    y = gate * hard + (1 - gate) * (posterior @ table)
    y += (state @ self.linear[...]) * jnp.sqrt(jnp.mean(table * table))
    mask = classes != END
    return jnp.where(mask[..., None], y, 0), mask

  def greedy(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Int[Array, 'a s']:
    """Return the tokens that the decoder writes, then -1."""
    del table
    classes = self._write(self.decoder.attend_to(frames, frame_mask))
    tokens = self.vocabulary[...][jnp.maximum(classes - 1, 0)]
    return jnp.where(classes == END, -1, tokens)

  def _write(self, memory: Memory) -> Int[Array, 'a s']:
    """Return the classes that the decoder writes, END after the transcript."""
    num_frames, stack = jnp.sum(memory.mask, axis=1), self.config.stack
    num_steps = -(-memory.mask.shape[1] // stack)
    self._check_length(self.config.start_length + num_steps)
    parts = self.decoder, self.embed_start, self.embed_tokens
    limits = -(-num_frames // stack)
    return write_transcripts(*parts, memory, limits, num_steps, self.config.beams)

  def _check_length(self, length: int) -> None:
    limit = self.config.max_target_positions
    if length > limit:
      raise ValueError(
        f'a transcript may have {length} positions; the decoder has {limit}. Shorten'
        ' the audio or raise config.adapter.stack'
      )
