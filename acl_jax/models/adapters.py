# SPDX-License-Identifier: Apache-2.0
"""From encoder frames to embeddings that the LLM reads, two ways behind one interface:

  adapter(frames, valid, table) -> (embeddings, valid)

`Stride` stacks k frames and projects them: the paper's way. `CTC` recognises tokens of
the LLM's own vocabulary and hands over one expected embedding per token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.layers import ones, param, rms_norm, zeros

EPS = 1e-6
BLANK = 0  # index of CTC's blank; vocabulary entry i has index i + 1


class Constant(nnx.Variable):
  """An array that belongs to a model and is never trained."""


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
class StrideConfig:
  """Sizes of `Stride`; without a `hidden_size` it is one linear map."""

  stack: int
  encoder_size: int
  hidden_size: int | None
  llm_size: int


class Stride(nnx.Module):
  """k frames stacked, then a linear map, or the projector of Ultravox.

  That projector is RMSNorm, linear, SwiGLU, RMSNorm, linear; its names are kept.
  """

  def __init__(self, config: StrideConfig, *, rngs: nnx.Rngs):
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


@dataclasses.dataclass(frozen=True)
class CTCConfig:
  """Sizes of `CTC`."""

  stack: int
  encoder_size: int
  hidden_size: int
  intermediate_size: int
  num_layers: int
  kernel_size: int
  dropout: float
  llm_size: int
  vocabulary_size: int  # tokens it can write, a subset of the LLM's


class ConvBlock(nnx.Module):
  """A depthwise convolution over time, then a gated feed-forward layer."""

  def __init__(self, config: CTCConfig, *, rngs: nnx.Rngs):
    d, f = config.hidden_size, config.intermediate_size
    self.dropout = config.dropout
    self.conv_norm = ones(d)
    self.conv = param(rngs, (config.kernel_size, d), ('conv', 'embed'), 0.2)
    self.mlp_norm = ones(d)
    self.gate_proj = param(rngs, (d, f), ('embed', 'mlp'), d**-0.5)
    self.up_proj = param(rngs, (d, f), ('embed', 'mlp'), d**-0.5)
    self.down_proj = param(rngs, (f, d), ('mlp', 'embed'), f**-0.5)

  def __call__(
    self, x: Float[Array, 'a s d'], valid: Bool[Array, 'a s'], key: Array | None
  ) -> Float[Array, 'a s d']:
    width = self.conv.shape[0]
    # What is not signal is zeroed before the convolution mixes time.
    y = rms_norm(x, self.conv_norm[...], EPS) * valid[..., None]
    y = jnp.pad(y, ((0, 0), (width // 2, (width - 1) // 2), (0, 0)))
    kernel = self.conv[...]
    x = x + sum(y[:, i : i + x.shape[1]] * kernel[i][None, None] for i in range(width))
    y = rms_norm(x, self.mlp_norm[...], EPS)
    y = jax.nn.silu(y @ self.gate_proj[...]) * (y @ self.up_proj[...])
    return x + drop(y, self.dropout, key) @ self.down_proj[...]


class CTC(nnx.Module):
  """Tokens heard, as expected embeddings under the CTC posterior.

  The output layer is the LLM's embedding table: frame -> LLM width, times embeddings of
  the `vocabulary`, plus a bias; the blank has a vector of its own.
  """

  def __init__(self, config: CTCConfig, *, rngs: nnx.Rngs):
    self.config = config
    inputs, d, e = (
      config.stack * config.encoder_size,
      config.hidden_size,
      config.llm_size,
    )
    self.norm_pre = ones(inputs)
    self.linear_1 = param(rngs, (inputs, d), ('embed', 'mlp'), inputs**-0.5)
    keys = jax.random.split(rngs.params(), config.num_layers)
    self.layers = jax.vmap(lambda key: ConvBlock(config, rngs=nnx.Rngs(key)))(keys)
    self.norm_post = ones(d)
    self.linear_2 = param(rngs, (d, e), ('mlp', 'llm'), d**-0.5)
    self.blank = param(rngs, (e,), ('llm',))
    self.bias = zeros(config.vocabulary_size + 1, 'vocab')
    self.vocabulary = Constant(jnp.arange(config.vocabulary_size))

  def logits(
    self,
    frames: Float[Array, 'a t d'],
    valid: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    key: Array | None = None,
    among: Int[Array, ' w'] | None = None,
  ) -> tuple[Float[Array, 'a s c'], Bool[Array, 'a s']]:
    """Scores of blank and vocabulary for each stack of frames; dropout iff a key.

    among: the entries of the vocabulary to score; None is all of them. c = w + 1.
    """
    x, valid = stack_frames(frames, valid, self.config.stack)
    keys = None if key is None else jax.random.split(key, self.config.num_layers)

    def layer(x, inputs):
      block, key = inputs
      return block(x, valid, key), None

    x = rms_norm(x, self.norm_pre[...], EPS) @ self.linear_1[...]
    x, _ = jax.lax.scan(layer, x, (self.layers, keys))
    x = rms_norm(x, self.norm_post[...], EPS) @ self.linear_2[...]
    words, bias = self.words(table), self.bias[...]
    # The table's rows have a length of their own: logits start at unit scale.
    scale = jnp.sqrt(jnp.mean(jnp.sum(words * words, axis=-1)))
    if among is not None:
      words, bias = words[among], bias[jnp.pad(among + 1, (1, 0))]
    classes = jnp.concatenate([self.blank[...][None], words]) / scale
    logits = jnp.einsum('ase,ce->asc', x, classes)
    return logits + jnp.broadcast_to(bias, logits.shape), valid

  def words(self, table: Float[Array, 'v e']) -> Float[Array, 'c e']:
    """The embeddings of the vocabulary."""
    return table[self.vocabulary[...]]

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    valid: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """One embedding per recognised token, at the front of the s slots."""
    logits, valid = self.logits(frames, valid, table)
    posterior = jax.nn.softmax(logits, axis=-1)
    start, segment = segments(logits, valid)
    heard = 1 - posterior[..., BLANK]
    expected = posterior[..., 1:] @ self.words(table)  # times what is not blank
    # member[a, i, j]: frame j belongs to token i.
    slots = jnp.arange(valid.shape[1])
    member = (segment[:, None, :] == slots[None, :, None]).astype(expected.dtype)
    total = jnp.einsum('ais,as->ai', member, heard)
    mean = jnp.einsum('ais,ase->aie', member, expected) / (total[..., None] + 1e-9)
    return mean, slots[None] < jnp.sum(start, axis=1, keepdims=True)

  def greedy(
    self,
    frames: Float[Array, 'a t d'],
    valid: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Int[Array, 'a s']:
    """The hard decision: token ids where a token starts, -1 elsewhere."""
    logits, valid = self.logits(frames, valid, table)
    start, _ = segments(logits, valid)
    best = jnp.argmax(logits, axis=-1)
    return jnp.where(start, self.vocabulary[...][jnp.maximum(best - 1, 0)], -1)


def segments(
  logits: Float[Array, 'a s c'], valid: Bool[Array, 'a s']
) -> tuple[Bool[Array, 'a s'], Int[Array, 'a s']]:
  """CTC's rule: where a token starts, and which token each frame belongs to (-1: none).

  Blanks are dropped and repeats merged (Graves et al. 2006).
  """
  best = jnp.where(valid, jnp.argmax(logits, axis=-1), BLANK)
  before = jnp.pad(best, ((0, 0), (1, 0)))[:, :-1]
  token = best != BLANK
  start = token & (best != before)
  return start, jnp.where(token, jnp.cumsum(start, axis=1) - 1, -1)


def drop(x: Float[Array, '...'], rate: float, key: Array | None) -> Float[Array, '...']:
  """Dropout, where there is a key."""
  if key is None or rate == 0:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  return jnp.where(keep, x / (1 - rate), 0)
