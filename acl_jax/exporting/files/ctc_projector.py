# SPDX-License-Identifier: Apache-2.0
"""The projector that recognises: one soft embedding per token heard.

Encoder frames become letters, two frames for each of the tokens of the LLM's vocabulary
that follow; blanks are dropped and repeats merged, as connectionist temporal
classification (CTC) has it, and each token's expected embedding is handed over.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .projectors import RMSNorm, stack_frames

BLANK = 0  # entry i of the vocabulary is class i + 1
ALPHABET = 31  # numbers of letters, 0 for none
NUM_LETTERS = 12  # of a token
NUM_SOUNDED = 28  # the alphabet of what is heard: a to z, space, apostrophe
NUM_BUCKETS = 2_048
MULTIPLIER = 2_654_435_761  # Knuth's multiplicative hashing, modulo 2^32


class ConvBlock(nn.Module):
  """A depthwise convolution over time, then a gated feed-forward layer."""

  def __init__(self, size: int, kernel_size: int):
    super().__init__()
    self.conv_norm, self.mlp_norm = RMSNorm(size), RMSNorm(size)
    self.conv = nn.Conv1d(size, size, kernel_size, groups=size, bias=False)
    self.gate_proj = nn.Linear(size, size, bias=False)
    self.up_proj = nn.Linear(size, size, bias=False)
    self.down_proj = nn.Linear(size, size, bias=False)

  def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    width = self.conv.kernel_size[0]
    y = (self.conv_norm(x) * valid[..., None]).transpose(1, 2)
    x = x + self.conv(F.pad(y, (width // 2, (width - 1) // 2))).transpose(1, 2)
    y = self.mlp_norm(x)
    return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Spelling(nn.Module):
  """A vector for each token from its letters: the sum of its n-grams' vectors."""

  def __init__(self, vocabulary_size: int, size: int):
    super().__init__()
    letters = torch.zeros(vocabulary_size, NUM_LETTERS, dtype=torch.uint8)
    self.register_buffer('letters', letters)
    self.buckets = nn.Embedding(NUM_BUCKETS, size)

  def forward(self) -> torch.Tensor:
    """[w k]"""
    x = F.pad(self.letters.long(), (1, 1))
    before, here, after = x[:, :-2], x[:, 1:-1], x[:, 2:]
    pairs = before * ALPHABET + here
    triples = pairs * ALPHABET + after + ALPHABET**2  # no triple is equal to a pair
    hashed = (torch.cat([pairs, triples], 1) * MULTIPLIER % 2**32) >> 16
    present = torch.cat([(before > 0) | (here > 0), here > 0], 1)
    # Of an n-gram that is not there nothing is added.
    weights = present.to(self.buckets.weight.dtype)
    total = F.embedding_bag(
      hashed % NUM_BUCKETS, self.buckets.weight, mode='sum', per_sample_weights=weights
    )
    return total / weights.sum(1, keepdim=True).clamp(min=1).sqrt()


class CTCProjector(nn.Module):
  """Tokens heard, as expected embeddings under the CTC posterior.

  sizes: hidden_size, num_layers, letter_hidden_size, letter_layers (0 is no letters),
  kernel_size, vocabulary_size, spelling_size.
  """

  def __init__(
    self, stack_factor: int, inputs: int, outputs: int, sizes: dict[str, Any]
  ):
    super().__init__()
    self.stack_factor = stack_factor
    hidden, kernel = sizes['hidden_size'], sizes['kernel_size']
    letter_hidden, width = sizes['letter_hidden_size'], stack_factor * inputs
    self.letter_layers = None
    if sizes['letter_layers']:
      blocks = (ConvBlock(letter_hidden, kernel) for _ in range(sizes['letter_layers']))
      self.norm_pre = RMSNorm(width // 2)
      self.linear_1 = nn.Linear(width // 2, letter_hidden, bias=False)
      self.letter_layers = nn.ModuleList(blocks)
      self.norm_letters = RMSNorm(letter_hidden)
      self.letter_head = nn.Linear(letter_hidden, 1 + NUM_SOUNDED, bias=False)
      self.letter_embed = nn.Embedding(1 + NUM_SOUNDED, letter_hidden)
      width = 2 * letter_hidden
    self.norm_mid = RMSNorm(width)
    self.linear_mid = nn.Linear(width, hidden, bias=False)
    blocks = (ConvBlock(hidden, kernel) for _ in range(sizes['num_layers']))
    self.layers = nn.ModuleList(blocks)
    self.norm_post = RMSNorm(hidden)
    self.linear_2 = nn.Linear(hidden, outputs, bias=False)
    vocabulary_size, spelling_size = sizes['vocabulary_size'], sizes['spelling_size']
    self.spelling = Spelling(vocabulary_size, spelling_size)
    self.linear_spelling = nn.Linear(hidden, spelling_size, bias=False)
    self.blank = nn.Parameter(torch.zeros(outputs))
    self.bias = nn.Parameter(torch.zeros(vocabulary_size + 1))
    tokens = torch.arange(vocabulary_size, dtype=torch.int32)
    self.register_buffer('vocabulary', tokens)

  def forward(self, frames, valid, table):
    """Embeddings [a s e], one per token at the front of the s slots, and which are any.

    table: the LLM's own embeddings [v e].
    """
    words = table[self.vocabulary.long()].to(frames.dtype)
    logits, valid = self.scores(frames, valid, words)
    posterior = logits.softmax(-1)
    start, segment = segments(logits, valid)
    heard = 1 - posterior[..., BLANK]
    expected = posterior[..., 1:] @ words  # times what is not blank
    slots = torch.arange(valid.shape[1], device=valid.device)
    # member[a, i, j]: frame j belongs to token i.
    member = (segment[:, None] == slots[None, :, None]).to(expected.dtype)
    total = (member @ heard[..., None]) + 1e-9
    return member @ expected / total, slots[None] < start.sum(1, keepdim=True)

  def scores(self, frames, valid, words) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of blank and vocabulary, and which frames are signal."""
    if self.letter_layers is None:
      x, valid = stack_frames(frames, valid, self.stack_factor)
    else:
      x, valid = stack_frames(frames, valid, self.stack_factor // 2)
      x = self._spell(self.linear_1(self.norm_pre(x)), valid)
      x, valid = stack_frames(x, valid, 2)
    x = self.linear_mid(self.norm_mid(x))
    for layer in self.layers:
      x = layer(x, valid)
    x = self.norm_post(x)
    # The table's rows have a length of their own: logits start at unit scale.
    scale = words.square().sum(-1).mean().sqrt()
    classes = torch.cat([self.blank[None].to(words.dtype), words]) / scale
    spelt = self.linear_spelling(x) @ self.spelling().T
    return self.linear_2(x) @ classes.T + F.pad(spelt, (1, 0)) + self.bias, valid

  def _spell(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Letter frames that know their letters (Nozaki and Komatsu 2021)."""
    for layer in self.letter_layers:
      x = layer(x, valid)
    x = self.norm_letters(x)
    return x + self.letter_head(x).softmax(-1) @ self.letter_embed.weight


def segments(
  logits: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """Where a token starts, and which token each frame belongs to (-1: none)."""
  best = torch.where(valid, logits.argmax(-1), BLANK)
  token = best != BLANK
  start = token & (best != F.pad(best, (1, 0))[:, :-1])
  return start, torch.where(token, start.cumsum(1) - 1, -1)
