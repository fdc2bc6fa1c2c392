# SPDX-License-Identifier: Apache-2.0
"""Projectors that stack encoder frames and map them to the LLM's embedding space."""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
  """Root mean square normalisation with a learned scale (epsilon 1e-6)."""

  def __init__(self, size: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(size))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = x.float()  # squares overflow or underflow in half precision
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
    return (y * self.weight).to(x.dtype)


def stack_frames(
  frames: torch.Tensor, frame_mask: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
  """Concatenate every k frames [a t d] to [a s kd], zero-padded; s = ceil(t / k)."""
  frames = frames * frame_mask[..., None]
  frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % k))
  return frames.reshape(len(frames), -1, k * frames.shape[2]), frame_mask[:, ::k]


class LinearProjector(nn.Module):
  """Stack k frames, then a linear map."""

  def __init__(self, stack_factor: int, inputs: int, outputs: int):
    super().__init__()
    self.stack_factor = stack_factor
    self.linear = nn.Linear(stack_factor * inputs, outputs, bias=False)

  def forward(self, frames, frame_mask, table):
    """Return embeddings [a s e] and their mask [a s]; `table` is not used."""
    x, mask = stack_frames(frames, frame_mask, self.stack_factor)
    return self.linear(x), mask


class SwiGLUProjector(nn.Module):
  """Stack k frames, then RMSNorm, linear, SwiGLU, RMSNorm, linear (Ultravox)."""

  def __init__(self, stack_factor: int, inputs: int, hidden_size: int, outputs: int):
    super().__init__()
    self.stack_factor = stack_factor
    self.ln_pre = RMSNorm(stack_factor * inputs)
    self.linear_1 = nn.Linear(stack_factor * inputs, hidden_size, bias=False)
    self.ln_mid = RMSNorm(hidden_size // 2)
    self.linear_2 = nn.Linear(hidden_size // 2, outputs, bias=False)

  def forward(self, frames, frame_mask, table):
    """Return embeddings [a s e] and their mask [a s]; `table` is not used."""
    x, mask = stack_frames(frames, frame_mask, self.stack_factor)
    x, gate = self.linear_1(self.ln_pre(x)).chunk(2, dim=-1)
    return self.linear_2(self.ln_mid(x * F.silu(gate))), mask
