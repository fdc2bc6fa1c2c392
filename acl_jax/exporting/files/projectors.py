# SPDX-License-Identifier: Apache-2.0
"""From encoder frames to embeddings in the LLM's space, by stacking them."""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
  """Scales every vector to unit root mean square, then by `weight`."""

  def __init__(self, size: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(size))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = x.float()  # squares overflow or vanish in less
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    return (y * self.weight).to(x.dtype)


def stack_frames(
  frames: torch.Tensor, valid: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
  """Every k frames [a t d] side by side as one; the last is filled with zeros."""
  frames = frames * valid[..., None]
  frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % k))
  return frames.reshape(len(frames), -1, k * frames.shape[2]), valid[:, ::k]


class LinearProjector(nn.Module):
  """k frames stacked, then a linear map."""

  def __init__(self, stack_factor: int, inputs: int, outputs: int):
    super().__init__()
    self.stack_factor = stack_factor
    self.linear = nn.Linear(stack_factor * inputs, outputs, bias=False)

  def forward(self, frames, valid, table):
    """Embeddings [a s e] and which of them are any; `table` is not needed."""
    x, valid = stack_frames(frames, valid, self.stack_factor)
    return self.linear(x), valid


class SwiGLUProjector(nn.Module):
  """k frames stacked, then RMSNorm, linear, SwiGLU, RMSNorm, linear, as in Ultravox."""

  def __init__(self, stack_factor: int, inputs: int, hidden_size: int, outputs: int):
    super().__init__()
    self.stack_factor = stack_factor
    self.ln_pre = RMSNorm(stack_factor * inputs)
    self.linear_1 = nn.Linear(stack_factor * inputs, hidden_size, bias=False)
    self.ln_mid = RMSNorm(hidden_size // 2)
    self.linear_2 = nn.Linear(hidden_size // 2, outputs, bias=False)

  def forward(self, frames, valid, table):
    """Embeddings [a s e] and which of them are any; `table` is not needed."""
    x, valid = stack_frames(frames, valid, self.stack_factor)
    x, gate = self.linear_1(self.ln_pre(x)).chunk(2, dim=-1)
    return self.linear_2(self.ln_mid(x * F.silu(gate))), valid
