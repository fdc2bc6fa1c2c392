# SPDX-License-Identifier: Apache-2.0
"""The attention projector: a decoder writes tokens; each becomes one embedding.

The decoder is Whisper's, with the LLM's tokens. An embedding lies between that of the
token in the LLM's table and the expected one under the decoder's posterior; a
projection of the decoder's state is added.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .transcript_writer import END, write_transcripts


class Attention(nn.Module):
  """Multi-head attention from decoder states to `source_size` wide states."""

  def __init__(self, width: int, source_size: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    self.q_proj = nn.Linear(width, width)
    self.k_proj = nn.Linear(source_size, width, bias=False)
    self.v_proj = nn.Linear(source_size, width)
    self.out_proj = nn.Linear(width, width)

  def keys_values(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values [a n s h]."""
    return self._split(self.k_proj(source)), self._split(self.v_proj(source))

  def forward(self, x: torch.Tensor, keys, values, mask: torch.Tensor) -> torch.Tensor:
    """Attend from x [a t d]; mask: [t s] or [a 1 1 s]."""
    query = self._split(self.q_proj(x))
    y = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return self.out_proj(y.transpose(1, 2).reshape(x.shape))

  def _split(self, x: torch.Tensor) -> torch.Tensor:
    return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class DecoderLayer(nn.Module):
  """Self-attention, attention to the encoder frames, and feed-forward."""

  def __init__(self, sizes: dict[str, Any], encoder_size: int):
    super().__init__()
    d, n = sizes['d_model'], sizes['decoder_attention_heads']
    self.self_attn_layer_norm = nn.LayerNorm(d)
    self.self_attn = Attention(d, d, n)
    self.encoder_attn_layer_norm = nn.LayerNorm(d)
    self.encoder_attn = Attention(d, encoder_size, n)
    self.final_layer_norm = nn.LayerNorm(d)
    self.fc1 = nn.Linear(d, sizes['decoder_ffn_dim'])
    self.fc2 = nn.Linear(sizes['decoder_ffn_dim'], d)

  def forward(self, x, cross, cross_mask, past):
    """Run positions that follow `past`; returns states, and keys and values so far."""
    y = self.self_attn_layer_norm(x)
    keys, values = self.self_attn.keys_values(y)
    if past is not None:
      keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
    t, s = x.shape[1], keys.shape[2]
    causal = torch.ones(t, s, dtype=torch.bool, device=x.device).tril(s - t)
    x = x + self.self_attn(y, keys, values, causal)
    x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), *cross, cross_mask)
    return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), (keys, values)


class Decoder(nn.Module):
  """Whisper's decoder without its token embeddings."""

  def __init__(self, sizes: dict[str, Any], encoder_size: int):
    super().__init__()
    d = sizes['d_model']
    self.embed_positions = nn.Embedding(sizes['max_target_positions'], d)
    layers = (DecoderLayer(sizes, encoder_size) for _ in range(sizes['decoder_layers']))
    self.layers = nn.ModuleList(layers)
    self.layer_norm = nn.LayerNorm(d)

  def forward(self, x, cross, cross_mask, past=None):
    """Return states of positions that follow `past`, and the cache with them."""
    past = [None] * len(self.layers) if past is None else past
    start = 0 if past[0] is None else past[0][0].shape[2]
    x = x + self.embed_positions.weight[start : start + x.shape[1]]
    cache = []
    for layer, layer_cross, layer_past in zip(self.layers, cross, past, strict=True):
      x, layer_cache = layer(x, layer_cross, cross_mask, layer_past)
      cache.append(layer_cache)
    return self.layer_norm(x), cache


class AttentionProjector(nn.Module):
  """Tokens that a decoder writes, as embeddings in the LLM's space.

  Entry i of the vocabulary is class i + 1. sizes: d_model, decoder_layers,
  decoder_attention_heads, decoder_ffn_dim, max_target_positions, start_length,
  vocabulary_size, and the beams of the search for what to write.
  """

  def __init__(
    self, stack_factor: int, inputs: int, outputs: int, sizes: dict[str, Any]
  ):
    super().__init__()
    self.stack_factor, self.beams = stack_factor, sizes.get('beams', 1)
    d, vocabulary_size = sizes['d_model'], sizes['vocabulary_size']
    self.decoder = Decoder(sizes, inputs)
    self.embed_start = nn.Parameter(torch.zeros(sizes['start_length'], d))
    self.embed_tokens = nn.Embedding(vocabulary_size + 1, d)
    self.gate = nn.Parameter(torch.zeros(d))
    self.gate_bias = nn.Parameter(torch.zeros(1))
    self.log_temperature = nn.Parameter(torch.zeros(1))
    self.linear = nn.Linear(d, outputs, bias=False)
    tokens = torch.arange(vocabulary_size, dtype=torch.int32)
    self.register_buffer('vocabulary', tokens)

  def forward(self, frames, frame_mask, table):
    """Return embeddings [a s e] and their mask [a s]; real embeddings come first.

    table: the LLM's input embeddings [v e].
    """
    frames = frames * frame_mask[..., None]
    cross = [layer.encoder_attn.keys_values(frames) for layer in self.decoder.layers]
    cross_mask = frame_mask[:, None, None]
    classes = write_transcripts(
      self.decoder,
      self.embed_start,
      self.embed_tokens.weight,
      cross,
      frame_mask,
      self.stack_factor,
      self.beams,
    )
    start = self.embed_start[None].expand(len(frames), -1, -1)
    x = torch.cat([start, self.embed_tokens(classes)], 1)
    hidden, _ = self.decoder(x, cross, cross_mask)
    hidden = hidden[:, start.shape[1] - 1 : -1]
    token_table = table[self.vocabulary.long()].to(frames.dtype)
    logits = hidden @ self.embed_tokens.weight[1:].T
    expected = (logits / self.log_temperature.exp()).softmax(-1) @ token_table
    hard = token_table[(classes - 1).clamp(min=0)]
    state = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
    gate = (state @ self.gate + self.gate_bias).sigmoid()[..., None]
    scale = token_table.square().mean().sqrt()
    y = gate * hard + (1 - gate) * expected + self.linear(state) * scale
    mask = classes != END
    return y * mask[..., None], mask
