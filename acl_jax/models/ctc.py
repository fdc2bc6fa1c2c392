# SPDX-License-Identifier: Apache-2.0
"""The adapter that recognises: one soft embedding per token heard.

  encoder frames ─► letters, two frames for each of ─► tokens of the LLM's vocabulary
    ─► blanks dropped, repeats merged ─► the expected embedding of each token

Both are trained by connectionist temporal classification (CTC). The letters are a step
on the way: few and frequent, they are soon learnt, and they spell tokens that are rare.
An encoder of few frames, fewer than letters are spoken, does without them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.adapters import EPS, stack_frames
from acl_jax.models.layers import Constant, dropout, ones, param, rms_norm, zeros
from acl_jax.models.spelling import NUM_LETTERS, Spelling
from acl_jax.sharding.rules import HIDDEN_AXES, constrain

BLANK = 0  # index of CTC's blank; vocabulary entry i has index i + 1


@dataclasses.dataclass(frozen=True)
class CTCAdapterConfig:
  """Sizes of `CTC`."""

  stack: int  # frames of the encoder per token frame; half as many per letter frame
  encoder_size: int
  letter_hidden_size: int
  letter_layers: int  # 0 is no letters
  hidden_size: int
  num_layers: int
  kernel_size: int
  dropout: float
  llm_size: int
  vocabulary_size: int  # tokens it can write, a subset of the LLM's
  spelling_size: int  # width of the vectors of how tokens are spelt

  def __post_init__(self):
    if self.letter_layers and self.stack % 2:
      raise ValueError(f'stack is {self.stack}; two letter frames make a token frame')


class ConvBlock(nnx.Module):
  """A depthwise convolution over time, then a gated feed-forward layer."""

  def __init__(self, size: int, kernel_size: int, dropout: float, *, rngs: nnx.Rngs):
    self.dropout = dropout
    self.conv_norm = ones(size)
    self.conv = param(rngs, (kernel_size, size), ('conv', 'embed'), 0.2)
    self.mlp_norm = ones(size)
    self.gate_proj = param(rngs, (size, size), ('embed', 'mlp'), size**-0.5)
    self.up_proj = param(rngs, (size, size), ('embed', 'mlp'), size**-0.5)
    self.down_proj = param(rngs, (size, size), ('mlp', 'embed'), size**-0.5)

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
    return x + dropout(y, self.dropout, key) @ self.down_proj[...]


def run_layers(
  layers: ConvBlock,
  x: Float[Array, 'a s d'],
  valid: Bool[Array, 'a s'],
  key: Array | None,
) -> Float[Array, 'a s d']:
  """Stacked blocks, one after another."""
  keys = None if key is None else jax.random.split(key, layers.conv.shape[0])

  def layer(x, inputs):
    block, key = inputs
    return constrain(block(x, valid, key), *HIDDEN_AXES), None

  return jax.lax.scan(layer, x, (layers, keys))[0]


class Scores(NamedTuple):
  """Logits of a clip's tokens and letters, blank first, and which frames are signal."""

  tokens: Float[Array, 'a s c']
  valid: Bool[Array, 'a s']
  letters: Float[Array, 'a r p'] | None
  letters_valid: Bool[Array, 'a r'] | None


class CTCAdapter(nnx.Module):
  """Tokens heard, as expected embeddings under the CTC posterior.

  A token of the `vocabulary` is scored by its embedding in the LLM's own table, plus by
  how it is spelt, plus a bias; the blank has a vector of its own.
  """

  def __init__(self, config: CTCAdapterConfig, *, rngs: nnx.Rngs):
    self.config = config
    d, e, width = (
      config.hidden_size,
      config.llm_size,
      config.stack * config.encoder_size,
    )
    if config.letter_layers:
      width = 2 * config.letter_hidden_size
      self._make_letters(rngs)
    self.norm_mid = ones(width)
    self.linear_mid = param(rngs, (width, d), ('embed', 'mlp'), width**-0.5)
    self.layers = self._layers(config.num_layers, d, rngs)
    self.norm_post = ones(d)
    self.linear_2 = param(rngs, (d, e), ('mlp', 'llm'), d**-0.5)
    self.spelling = Spelling(config.vocabulary_size, config.spelling_size, rngs=rngs)
    self.linear_spelling = param(rngs, (d, config.spelling_size), ('mlp', 'llm'))
    self.blank = param(rngs, (e,), ('llm',))
    self.bias = zeros(config.vocabulary_size + 1, 'vocab')
    self.vocabulary = Constant(jnp.arange(config.vocabulary_size))

  def _make_letters(self, rngs: nnx.Rngs) -> None:
    config, classes = self.config, 1 + NUM_LETTERS
    h, inputs = config.letter_hidden_size, config.stack // 2 * config.encoder_size
    self.norm_pre = ones(inputs)
    self.linear_1 = param(rngs, (inputs, h), ('embed', 'mlp'), inputs**-0.5)
    self.letter_layers = self._layers(config.letter_layers, h, rngs)
    self.norm_letters = ones(h)
    self.letter_head = param(rngs, (h, classes), ('mlp', 'classes'), h**-0.5)
    self.letter_embed = param(rngs, (classes, h), ('classes', 'mlp'), 1.0)

  def _layers(self, number: int, size: int, rngs: nnx.Rngs) -> ConvBlock:
    """`number` blocks in one, stacked."""
    keys = jax.random.split(rngs.params(), number)
    how = self.config.kernel_size, self.config.dropout
    return jax.vmap(lambda key: ConvBlock(size, *how, rngs=nnx.Rngs(key)))(keys)

  def scores(
    self,
    frames: Float[Array, 'a t d'],
    valid: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    key: Array | None = None,
    candidates: Int[Array, ' w'] | None = None,
  ) -> Scores:
    """Of blank and letters, of blank and vocabulary; dropout iff a key.

    candidates: the entries of the vocabulary to score; None is all of them. c = w + 1.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    letters = letters_valid = None
    if self.config.letter_layers:
      x, letters, letters_valid = self._spell(frames, valid, keys[0])
      x, valid = stack_frames(x, letters_valid, 2)
    else:
      x, valid = stack_frames(frames, valid, self.config.stack)
    x = rms_norm(x, self.norm_mid[...], EPS) @ self.linear_mid[...]
    x = run_layers(self.layers, x, valid, keys[1])
    x = rms_norm(x, self.norm_post[...], EPS)
    return Scores(self._tokens(x, table, candidates), valid, letters, letters_valid)

  def _spell(self, frames, valid, key: Array | None):
    """Letter frames that know their letters, the letters' logits, which are signal."""
    x, valid = stack_frames(frames, valid, self.config.stack // 2)
    x = rms_norm(x, self.norm_pre[...], EPS) @ self.linear_1[...]
    x = run_layers(self.letter_layers, x, valid, key)
    x = rms_norm(x, self.norm_letters[...], EPS)
    letters = x @ self.letter_head[...]
    # What was decided about letters is told to those who decide about tokens
    # (self-conditioned CTC, Nozaki and Komatsu 2021).
    return x + jax.nn.softmax(letters) @ self.letter_embed[...], letters, valid

  def _tokens(
    self,
    x: Float[Array, 'a s d'],
    table: Float[Array, 'v e'],
    candidates: Int[Array, ' w'] | None,
  ) -> Float[Array, 'a s c']:
    words, bias = self.words(table), self.bias[...]
    # The table's rows have a length of their own: logits start at unit scale.
    scale = jnp.sqrt(jnp.mean(jnp.sum(words * words, axis=-1)))
    if candidates is not None:
      words, bias = words[candidates], bias[jnp.pad(candidates + 1, (1, 0))]
    classes = jnp.concatenate([self.blank[...][None], words]) / scale
    meant = jnp.einsum('ase,ce->asc', x @ self.linear_2[...], classes)
    spelt = jnp.einsum(
      'ask,wk->asw', x @ self.linear_spelling[...], self.spelling(candidates)
    )
    logits = meant + jnp.pad(spelt, ((0, 0), (0, 0), (1, 0)))
    return logits + jnp.broadcast_to(bias, logits.shape)

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
    logits, valid, *_ = self.scores(frames, valid, table)
    posterior = jax.nn.softmax(logits, axis=-1)
    start, segment = ctc_segments(logits, valid)
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
    logits, valid, *_ = self.scores(frames, valid, table)
    start, _ = ctc_segments(logits, valid)
    best = jnp.argmax(logits, axis=-1)
    return jnp.where(start, self.vocabulary[...][jnp.maximum(best - 1, 0)], -1)


def ctc_segments(
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
