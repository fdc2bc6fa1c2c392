# SPDX-License-Identifier: Apache-2.0
"""The CTC projector: recognises tokens and returns one soft embedding for each.

Encoder frames are classified into letters and then, at half the frame rate, into tokens
of the LLM's vocabulary. Blanks are dropped and repeats merged, as in connectionist
temporal classification (CTC), and the LLM reads the expected embedding of each token.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .projectors import RMSNorm, stack_frames

BLANK = 0  # class; entry i of the vocabulary is class i + 1
NUM_LETTERS = 28  # classes of letters without the blank: a to z, space, apostrophe
MAX_TOKEN_LETTERS = 12  # letters of a token that its spelling vector depends on
ALPHABET_SIZE = 31  # letter codes in tokens; 0 is no letter
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

  def forward(self, x: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    width = self.conv.kernel_size[0]
    y = (self.conv_norm(x) * frame_mask[..., None]).transpose(1, 2)
    x = x + self.conv(F.pad(y, (width // 2, (width - 1) // 2))).transpose(1, 2)
    y = self.mlp_norm(x)
    return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Spelling(nn.Module):
  """A vector for each token from its spelling: a scaled sum over letter n-grams.

  The vectors of letter pairs and triples are hashed into buckets (Bojanowski et al.
  2017).
  """

  def __init__(self, vocabulary_size: int, size: int):
    super().__init__()
    letters = torch.zeros(vocabulary_size, MAX_TOKEN_LETTERS, dtype=torch.uint8)
    self.register_buffer('letters', letters)
    self.buckets = nn.Embedding(NUM_BUCKETS, size)

  def forward(self) -> torch.Tensor:
    """Return the vectors of all tokens [w k]."""
    x = F.pad(self.letters.long(), (1, 1))
    previous, letter, following = x[:, :-2], x[:, 1:-1], x[:, 2:]
    pairs = previous * ALPHABET_SIZE + letter
    # The offset keeps the codes of triples apart from those of pairs.
    triples = pairs * ALPHABET_SIZE + following + ALPHABET_SIZE**2
    hashed = (torch.cat([pairs, triples], 1) * MULTIPLIER % 2**32) >> 16
    present = torch.cat([(previous > 0) | (letter > 0), letter > 0], 1)
    weights = present.to(self.buckets.weight.dtype)  # 0 for n-grams past the end
    total = F.embedding_bag(
      hashed % NUM_BUCKETS, self.buckets.weight, mode='sum', per_sample_weights=weights
    )
    return total / weights.sum(1, keepdim=True).clamp(min=1).sqrt()


class CTCProjector(nn.Module):
  """Recognised tokens as expected embeddings under the CTC posterior.

  sizes: hidden_size, num_layers, letter_hidden_size, letter_layers (0 for no letters),
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
      self.letter_head = nn.Linear(letter_hidden, 1 + NUM_LETTERS, bias=False)
      self.letter_embed = nn.Embedding(1 + NUM_LETTERS, letter_hidden)
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

  def forward(self, frames, frame_mask, table):
    """Return embeddings [a s e] and their mask [a s]; real embeddings come first.

    table: the LLM's input embeddings [v e].
    """
    token_table = table[self.vocabulary.long()].to(frames.dtype)
    logits, frame_mask = self.logits(frames, frame_mask, token_table)
    posterior = logits.softmax(-1)
    start, segment = ctc_segments(logits, frame_mask)
    not_blank = 1 - posterior[..., BLANK]
    expected = posterior[..., 1:] @ token_table  # times the weight `not_blank`
    slots = torch.arange(frame_mask.shape[1], device=frame_mask.device)
    # member[a, i, j]: frame j belongs to token i.
    member = (segment[:, None] == slots[None, :, None]).to(expected.dtype)
    total = (member @ not_blank[..., None]) + 1e-9
    return member @ expected / total, slots[None] < start.sum(1, keepdim=True)

  def logits(
    self, frames, frame_mask, token_table
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of the blank and the vocabulary [a s w+1], and a mask [a s].

    token_table: the LLM's input embeddings of the vocabulary [w e].
    """
    if self.letter_layers is None:
      x, mask = stack_frames(frames, frame_mask, self.stack_factor)
    else:
      x, mask = stack_frames(frames, frame_mask, self.stack_factor // 2)
      x = self._condition_on_letters(self.linear_1(self.norm_pre(x)), mask)
      x, mask = stack_frames(x, mask, 2)
    x = self.linear_mid(self.norm_mid(x))
    for layer in self.layers:
      x = layer(x, mask)
    x = self.norm_post(x)
    # Normalised by the table's mean norm, so that logits start at unit scale.
    scale = token_table.square().sum(-1).mean().sqrt()
    classes = torch.cat([self.blank[None].to(token_table.dtype), token_table]) / scale
    spelling_logits = self.linear_spelling(x) @ self.spelling().T
    logits = self.linear_2(x) @ classes.T + F.pad(spelling_logits, (1, 0)) + self.bias
    return logits, mask

  def _condition_on_letters(
    self, x: torch.Tensor, frame_mask: torch.Tensor
  ) -> torch.Tensor:
    """Self-conditioned CTC: add the predicted letters (Nozaki and Komatsu 2021)."""
    for layer in self.letter_layers:
      x = layer(x, frame_mask)
    x = self.norm_letters(x)
    return x + self.letter_head(x).softmax(-1) @ self.letter_embed.weight


def ctc_segments(
  logits: torch.Tensor, frame_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """Return where tokens start, and the index of each frame's token (-1 for none)."""
  best = torch.where(frame_mask, logits.argmax(-1), BLANK)
  token = best != BLANK
  start = token & (best != F.pad(best, (1, 0))[:, :-1])
  return start, torch.where(token, start.cumsum(1) - 1, -1)
