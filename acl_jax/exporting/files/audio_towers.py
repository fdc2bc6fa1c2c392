# SPDX-License-Identifier: Apache-2.0
"""Transformers' audio encoders with a mask for padding frames."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PretrainedConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class WhisperTower(WhisperEncoder):
  """Whisper's encoder on audio of any length up to 30 s, without padding to it."""

  def forward(
    self, input_features: torch.Tensor, frame_mask: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """log-mel [a m t] and its mask [a t] -> encoder frames [a u d] and theirs [a u].

    ValueError if the audio is too long.
    """
    limit = 2 * self.config.max_source_positions
    if input_features.shape[-1] > limit:
      raise ValueError(
        f'audio has {input_features.shape[-1]} frames; the limit of Whisper is {limit}'
      )
    # Padding is zeroed before each convolution, which would mix it into other frames.
    x = F.gelu(self.conv1(input_features * frame_mask[:, None]))
    x = F.gelu(self.conv2(x * frame_mask[:, None])).transpose(1, 2)
    frame_mask = frame_mask[:, ::2]
    x = x + self.embed_positions.weight[: x.shape[1]]
    for layer in self.layers:
      x = x + self._attend(layer.self_attn, layer.self_attn_layer_norm(x), frame_mask)
      x = x + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(x))))
    return self.layer_norm(x), frame_mask

  def _attend(self, attention: nn.Module, x: torch.Tensor, frame_mask: torch.Tensor):
    heads = (*x.shape[:2], self.config.encoder_attention_heads, -1)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (f(x).view(heads).transpose(1, 2) for f in projections)
    attention_mask = frame_mask[:, None, None]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
    return attention.out_proj(y.transpose(1, 2).reshape(x.shape))


def make_tower(config: PretrainedConfig) -> nn.Module:
  """Make the encoder that a configuration describes."""
  if config.model_type == 'whisper':
    return WhisperTower(config)
  return AutoModel.from_config(config)


def encode(
  tower: nn.Module, log_mel: torch.Tensor, frame_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """log-mel [a m t] and its mask [a t] -> encoder frames [a u d] and theirs [a u]."""
  log_mel = log_mel.to(next(tower.parameters()).dtype)
  if isinstance(tower, WhisperTower):
    return tower(log_mel, frame_mask)
  output = tower(input_features=log_mel.transpose(1, 2), attention_mask=frame_mask)
  return output.last_hidden_state, frame_mask[:, :: tower.config.subsampling_factor]
