# SPDX-License-Identifier: Apache-2.0
"""Transformers' audio encoders, told which frames are signal."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PretrainedConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class WhisperTower(WhisperEncoder):
  """Whisper's encoder on audio of its own length, instead of 30 s."""

  def forward(
    self, input_features: torch.Tensor, valid: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """log-mel [a m t] and which frames are signal [a t] -> frames [a u d], which."""
    limit = 2 * self.config.max_source_positions
    if input_features.shape[-1] > limit:
      raise ValueError(
        f'audio has {input_features.shape[-1]} frames; Whisper hears {limit} at most'
      )
    # What is not signal is zeroed before each convolution mixes it into what is.
    x = F.gelu(self.conv1(input_features * valid[:, None]))
    x = F.gelu(self.conv2(x * valid[:, None])).transpose(1, 2)
    valid = valid[:, ::2]
    x = x + self.embed_positions.weight[: x.shape[1]]
    for layer in self.layers:
      x = x + self._attend(layer.self_attn, layer.self_attn_layer_norm(x), valid)
      x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
    return self.layer_norm(x), valid

  def _attend(self, attention: nn.Module, x: torch.Tensor, valid: torch.Tensor):
    heads = (*x.shape[:2], self.config.encoder_attention_heads, -1)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (f(x).view(heads).transpose(1, 2) for f in projections)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None])
    return attention.out_proj(y.transpose(1, 2).reshape(x.shape))


def make_tower(config: PretrainedConfig) -> nn.Module:
  """The encoder that a configuration describes."""
  if config.model_type == 'whisper':
    return WhisperTower(config)
  return AutoModel.from_config(config)


def encode(
  tower: nn.Module, log_mel: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """log-mel [a m t] and which frames are signal [a t] -> frames [a u d], which."""
  log_mel = log_mel.to(next(tower.parameters()).dtype)
  if isinstance(tower, WhisperTower):
    return tower(log_mel, valid)
  heard = tower(input_features=log_mel.transpose(1, 2), attention_mask=valid)
  return heard.last_hidden_state, valid[:, :: tower.config.subsampling_factor]
