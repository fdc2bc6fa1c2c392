# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from acl_jax.models.adapters import StrideAdapter, StrideAdapterConfig, stack_frames
from tests.adapter_inputs import FRAME_SIZE as D
from tests.adapter_inputs import LLM_SIZE as E
from tests.adapter_inputs import make_inputs, normal

A = 3  # clips
LENGTHS = (23, 14, 0)


run = jax.jit(lambda adapter, *inputs: adapter(*inputs))


def build_stride(hidden):
  adapter = StrideAdapter(StrideAdapterConfig(3, D, hidden, E), rngs=nnx.Rngs(0))
  return jax.tree.map(lambda w: w + 0.3 * normal(*w.shape, seed=w.size), adapter)


def test_frames_are_stacked():
  frames, frame_mask, _ = make_inputs(LENGTHS)
  stacked, mask = stack_frames(frames, frame_mask, 4)
  assert stacked.shape == (A, 6, 4 * D)
  for clip, length in enumerate(LENGTHS):
    padded = np.zeros((24, D), np.float32)
    padded[:length] = frames[clip, :length]
    np.testing.assert_array_equal(stacked[clip], padded.reshape(6, 4 * D))
    assert mask[clip].sum() == -(-length // 4)


def test_a_stack_of_one_changes_nothing():
  frames, frame_mask, _ = make_inputs(LENGTHS)
  stacked, mask = stack_frames(frames, frame_mask, 1)
  np.testing.assert_array_equal(stacked, np.where(frame_mask[..., None], frames, 0))
  np.testing.assert_array_equal(mask, frame_mask)


class Projector(torch.nn.Module):
  """Ultravox's projector, after its published code: stack, norm, SwiGLU, norm."""

  def __init__(self, adapter):
    super().__init__()
    self.weights = {
      name: torch.from_numpy(np.array(getattr(adapter, name)[...]))
      for name in ('ln_pre', 'linear_1', 'ln_mid', 'linear_2')
    }

  @staticmethod
  def norm(x, weight):
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

  def forward(self, x, stack):
    b, t, c = x.shape
    x = torch.nn.functional.pad(x, (0, 0, 0, -t % stack)).view(b, -1, c * stack)
    x = torch.nn.functional.linear(
      self.norm(x, self.weights['ln_pre']), self.weights['linear_1'].T
    )
    x, gate = x.chunk(2, dim=-1)
    x = torch.nn.functional.silu(gate) * x
    return self.norm(x, self.weights['ln_mid']) @ self.weights['linear_2']


def test_the_stride_adapter_equals_the_projector_of_ultravox():
  adapter = build_stride(hidden=14)
  frames, frame_mask, table = make_inputs(LENGTHS)
  embeddings, mask = run(adapter, frames, frame_mask, table)
  assert embeddings.shape == (A, 8, E) and mask.sum(1).tolist() == [8, 5, 0]
  masked = torch.from_numpy(np.array(frames * frame_mask[..., None]))
  expected = Projector(adapter)(masked, 3).numpy()
  np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_a_stride_adapter_without_a_hidden_layer_is_linear():
  adapter = build_stride(hidden=None)
  frames, frame_mask, table = make_inputs(LENGTHS)
  embeddings, _ = run(adapter, frames, frame_mask, table)
  stacked, _ = stack_frames(frames, frame_mask, 3)
  np.testing.assert_allclose(embeddings, stacked @ adapter.linear[...], atol=1e-6)
  assert len(jax.tree.leaves(adapter)) == 1


@pytest.mark.parametrize('padding', [-7.5, 1e6, jnp.nan, jnp.inf])
@pytest.mark.parametrize('hidden', [None, 14])
def test_padding_content_changes_nothing(hidden, padding):
  adapter = build_stride(hidden)
  frames, frame_mask, table = make_inputs(LENGTHS)
  expected, mask = run(adapter, frames, frame_mask, table)
  dirty = jnp.where(frame_mask[..., None], frames, padding)
  actual, actual_mask = run(adapter, dirty, frame_mask, table)
  assert mask.any() and not mask[2].any()
  np.testing.assert_array_equal(mask, actual_mask)
  assert jnp.abs((actual - expected)[mask]).max() == 0.0
