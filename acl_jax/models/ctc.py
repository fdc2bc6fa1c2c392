# SPDX-License-Identifier: Apache-2.0
"""The CTC adapter: it recognises tokens and returns one expected embedding for each.

  encoder frames ─► logits of letters, twice as many frames as for tokens
    ─► logits of tokens of the LLM's vocabulary
    ─► blanks dropped, repeats merged ─► the expected embedding of each token

Letters and tokens are trained by connectionist temporal classification (CTC). Letters
are an intermediate target: few and frequent, they are learnt early, and they spell rare
tokens. An encoder with fewer frames than the speech has letters is used without them.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.adapters import EPS, project, stack_frames
from acl_jax.models.conv_block import ConvBlock, run_blocks
from acl_jax.models.layers import Constant, ones, param, rms_norm, zeros
from acl_jax.models.recognition import Recognition, ctc_segments, rank_segments
from acl_jax.models.spelling import NUM_LETTERS, Spelling

BLANK = 0  # class of CTC's blank; vocabulary entry i is class i + 1


@dataclasses.dataclass(frozen=True)
class CTCAdapterConfig:
  """Sizes of `CTCAdapter`."""

  stack: int  # encoder frames per token frame; half as many per letter frame
  encoder_size: int
  letter_hidden_size: int
  letter_layers: int  # 0: no letters
  hidden_size: int
  num_layers: int
  kernel_size: int
  dropout: float
  llm_size: int
  vocabulary_size: int  # tokens that it recognises, a subset of the LLM's
  spelling_size: int  # width of the spelling vectors of tokens

  def __post_init__(self):
    if self.letter_layers and self.stack % 2:
      raise ValueError(
        f'stack is {self.stack}; with letter_layers = {self.letter_layers} it must be'
        ' even, because a token frame is two letter frames'
      )


class Scores(NamedTuple):
  """Logits of tokens and letters, blank first, and the masks of their frames."""

  tokens: Float[Array, 'a s c']
  mask: Bool[Array, 'a s']
  letters: Float[Array, 'a r p'] | None
  letters_mask: Bool[Array, 'a r'] | None


class CTCAdapter(nnx.Module):
  """Recognised tokens as expected embeddings under the CTC posterior.

  The logit of a token of the `vocabulary` is the sum of a product with its embedding in
  the LLM's own table, a product with its spelling vector, and a bias. The blank has a
  vector of its own.

  unroll: whether the loops over blocks are unrolled; see `layers.unroll_layers`.
  """

  kind = 'ctc'
  recognises = True
  pretrained: tuple[str, ...] = ()

  def __init__(self, config: CTCAdapterConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.unroll = False
    d, e = config.hidden_size, config.llm_size
    width = config.stack * config.encoder_size
    if config.letter_layers:
      width = 2 * config.letter_hidden_size
      self._create_letters(rngs)
    self.norm_mid = ones(width)
    self.linear_mid = param(rngs, (width, d), ('embed', 'mlp'), width**-0.5, inputs=1)
    self.layers = self._create_blocks(config.num_layers, d, rngs)
    self.norm_post = ones(d)
    self.linear_2 = param(rngs, (d, e), ('mlp', 'llm'), d**-0.5, inputs=1)
    self.spelling = Spelling(config.vocabulary_size, config.spelling_size, rngs=rngs)
    shape = d, config.spelling_size
    self.linear_spelling = param(rngs, shape, ('mlp', 'llm'), inputs=1)
    self.blank = param(rngs, (e,), ('llm',))
    self.bias = zeros(config.vocabulary_size + 1, 'vocab')
    self.vocabulary = Constant(jnp.arange(config.vocabulary_size))

  def _create_letters(self, rngs: nnx.Rngs) -> None:
    config, classes = self.config, 1 + NUM_LETTERS
    h, inputs = config.letter_hidden_size, config.stack // 2 * config.encoder_size
    self.norm_pre = ones(inputs)
    self.linear_1 = param(rngs, (inputs, h), ('embed', 'mlp'), inputs**-0.5, inputs=1)
    self.letter_layers = self._create_blocks(config.letter_layers, h, rngs)
    self.norm_letters = ones(h)
    axes = 'mlp', 'classes'
    self.letter_head = param(rngs, (h, classes), axes, h**-0.5, inputs=1)
    self.letter_embed = param(rngs, (classes, h), axes[::-1], 1.0, inputs=1)

  def _create_blocks(self, number: int, size: int, rngs: nnx.Rngs) -> ConvBlock:
    """Create `number` blocks, stacked."""
    width, dropout = self.config.kernel_size, self.config.dropout

    def create(key) -> ConvBlock:
      return ConvBlock(size, width, dropout, rngs=nnx.Rngs(key))

    return jax.vmap(create)(jax.random.split(rngs.params(), number))

  @property
  def letters(self) -> bool:
    """Whether it recognises letters, too."""
    return self.config.letter_layers > 0

  @property
  def reach(self) -> int:
    """See `protocols.Adapter`."""
    config, side = self.config, self.config.kernel_size // 2
    letters = config.letter_layers * side * (config.stack // 2)
    return (config.num_layers * side + 1) * config.stack + letters

  def token_ids(self) -> list[int]:
    """Return the LLM's tokens that it can recognise."""
    return self.vocabulary[...].tolist()

  def scores(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
    key: Array | None = None,
    candidates: Int[Array, ' w'] | None = None,
  ) -> Scores:
    """Score letters and tokens.

    key: for dropout; None is no dropout. candidates: the entries of the vocabulary to
    score; None is all of them. c = w + 1.
    """
    keys = (None, None) if key is None else jax.random.split(key)
    letters = letters_mask = None
    if self.config.letter_layers:
      x, letters, letters_mask = self._letter_scores(frames, frame_mask, keys[0])
      x, mask = stack_frames(x, letters_mask, 2)
    else:
      x, mask = stack_frames(frames, frame_mask, self.config.stack)
    x = project(rms_norm(x, self.norm_mid[...], EPS), self.linear_mid)
    x = run_blocks(self.layers, x, mask, keys[1], self.unroll)
    x = rms_norm(x, self.norm_post[...], EPS)
    tokens = self._token_logits(x, table, candidates)
    return Scores(tokens, mask, letters, letters_mask)

  def _letter_scores(self, frames, frame_mask, key: Array | None):
    """Return letter frames, conditioned on their logits, the logits, and the mask."""
    x, mask = stack_frames(frames, frame_mask, self.config.stack // 2)
    x = project(rms_norm(x, self.norm_pre[...], EPS), self.linear_1)
    x = run_blocks(self.letter_layers, x, mask, key, self.unroll)
    x = rms_norm(x, self.norm_letters[...], EPS)
    letters = project(x, self.letter_head)
    # The layers above are conditioned on the distribution of letters (self-conditioned
    # CTC, Nozaki and Komatsu 2021).
    return x + project(jax.nn.softmax(letters), self.letter_embed), letters, mask

  def _token_logits(
    self,
    x: Float[Array, 'a s d'],
    table: Float[Array, 'v e'],
    candidates: Int[Array, ' w'] | None,
  ) -> Float[Array, 'a s c']:
    embeddings, bias = self.vocabulary_embeddings(table), self.bias[...]
    # Divided by the embeddings' RMS length, so that logits start at unit scale.
    scale = jnp.sqrt(jnp.mean(jnp.sum(embeddings * embeddings, axis=-1)))
    if candidates is not None:
      embeddings = embeddings[candidates]
      bias = bias[jnp.pad(candidates + 1, (1, 0))]
    classes = jnp.concatenate([self.blank[...][None], embeddings]) / scale
    by_embedding = jnp.einsum('ase,ce->asc', project(x, self.linear_2), classes)
    spelling = project(x, self.linear_spelling)
    by_spelling = jnp.einsum('ask,wk->asw', spelling, self.spelling(candidates))
    logits = by_embedding + jnp.pad(by_spelling, ((0, 0), (0, 0), (1, 0)))
    return logits + jnp.broadcast_to(bias, logits.shape)

  def vocabulary_embeddings(self, table: Float[Array, 'v e']) -> Float[Array, 'c e']:
    """Look up the embeddings of the vocabulary in the LLM's table."""
    return table[self.vocabulary[...]]

  def __call__(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    """Return one embedding per recognised token, at the front of the s slots."""
    logits, mask, *_ = self.scores(frames, frame_mask, table)
    return self._embed(logits, *ctc_segments(logits, mask), table)

  def recognise(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Recognition:
    """As `__call__`, with the tokens."""
    logits, mask, *_ = self.scores(frames, frame_mask, table)
    start, segment = ctc_segments(logits, mask)
    stack, vocabulary = self.config.stack, self.vocabulary[...]
    tokens = rank_segments(logits, segment, vocabulary, stack)
    assert tokens.spans is not None
    embeddings = self._embed(logits, start, segment, table)
    return Recognition(*embeddings, tokens.spans[..., 0], tokens)

  def _embed(
    self,
    logits: Float[Array, 'a s c'],
    start: Bool[Array, 'a s'],
    segment: Int[Array, 'a s'],
    table: Float[Array, 'v e'],
  ) -> tuple[Float[Array, 'a s e'], Bool[Array, 'a s']]:
    posterior = jax.nn.softmax(logits, axis=-1)
    not_blank = 1 - posterior[..., BLANK]
    # Weighted by the probability of not being blank.
    weighted = posterior[..., 1:] @ self.vocabulary_embeddings(table)
    # member[a, i, j]: frame j belongs to token i.
    slots = jnp.arange(start.shape[1])
    member = (segment[:, None, :] == slots[None, :, None]).astype(weighted.dtype)
    total = jnp.einsum('ais,as->ai', member, not_blank)
    mean = jnp.einsum('ais,ase->aie', member, weighted) / (total[..., None] + 1e-9)
    return mean, slots[None] < jnp.sum(start, axis=1, keepdims=True)

  def greedy(
    self,
    frames: Float[Array, 'a t d'],
    frame_mask: Bool[Array, 'a t'],
    table: Float[Array, 'v e'],
  ) -> Int[Array, 'a s']:
    """Decode greedily: the id of every token where it starts, -1 elsewhere."""
    logits, mask, *_ = self.scores(frames, frame_mask, table)
    start, _ = ctc_segments(logits, mask)
    best = jnp.argmax(logits, axis=-1)
    return jnp.where(start, self.vocabulary[...][jnp.maximum(best - 1, 0)], -1)
