# SPDX-License-Identifier: Apache-2.0
"""Compare our Conformer with Transformers' `ParakeetEncoder`, forward and backward.

  .venv/bin/python benchmarks/encoder.py

Both have the paper's size, the same weights, float32 and as many threads, and run in
alternation on the same utterances of 15 s: ours packed, `--packed` per row, theirs one
per row. The last line is JSON; a ratio above 1 means that ours is faster.
`ratio_of_products_alone` compares XLA with PyTorch on just the matrix products of a
block's linear layers.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags
from flax import nnx
from transformers import ParakeetEncoder, ParakeetEncoderConfig
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.models.conformer import Conformer
from acl_jax.weights.parakeet import load_conformer
from benchmarks.machine import print_result

_ROUNDS = flags.DEFINE_integer('rounds', 8, 'measured steps of each', lower_bound=1)
_PACKED = flags.DEFINE_integer('packed', 2, 'utterances in a row of ours: 1, 2 or 4')
_LAYERS = flags.DEFINE_integer('layers', 18, 'blocks of the encoder', lower_bound=1)

UTTERANCES, FRAMES = 4, 1_504  # log-mel frames: 15 s, a multiple of eight
SIZES = dict(
  hidden_size=512,
  intermediate_size=2_048,
  num_attention_heads=8,
  conv_kernel_size=11,
  num_mel_bins=80,
)
NO_DROPOUT = dict.fromkeys(
  ('dropout', 'activation_dropout', 'attention_dropout', 'layerdrop'), 0.0
)
WIDTH, WIDE = SIZES['hidden_size'], SIZES['intermediate_size']
LINEAR_LAYERS = {  # how many of each size a block has
  (WIDTH, WIDE): 2,  # first of the feed-forward layers
  (WIDE, WIDTH): 2,  # second of the feed-forward layers
  (WIDTH, WIDTH): 5,  # four of attention, and the output of the convolution
  (WIDTH, 2 * WIDTH): 1,  # gate of the convolution
}
MAX_DIFFERENCE = 1e-3  # of the output frames; rounding alone stays below


def our_step(folder: str, log_mel: np.ndarray, probe: np.ndarray) -> Callable:
  """Return our forward and backward pass; a call returns the loss and the frames."""
  model = load_conformer(folder)
  assert isinstance(model, Conformer)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  rows = UTTERANCES // _PACKED.value
  packed, packed_probe = (
    jnp.asarray(x.reshape(rows, -1, x.shape[-1])) for x in (log_mel, probe)
  )
  segment_ids = jnp.broadcast_to(
    jnp.arange(_PACKED.value * FRAMES) // FRAMES + 1, packed.shape[:2]
  )

  @jax.jit
  def value_and_grad(params):
    def loss(params):
      model = nnx.merge(graphdef, params, rest)
      frames = model.encode(packed, segment_ids, remat='dots').frames  # as in training
      return jnp.sum(frames * packed_probe), frames

    return jax.value_and_grad(loss, has_aux=True)(params)

  def call():
    (value, frames), gradient = jax.block_until_ready(value_and_grad(params))
    del gradient
    return float(value), np.asarray(frames).reshape(probe.shape)

  return call


def torch_step(
  model: ParakeetEncoder, log_mel: np.ndarray, probe: np.ndarray
) -> Callable:
  """Return the same step of Transformers."""
  x, torch_probe = torch.from_numpy(log_mel), torch.from_numpy(probe)
  mask = torch.ones(x.shape[:2], dtype=torch.bool)

  def call():
    model.zero_grad()
    frames = model(x, attention_mask=mask).last_hidden_state
    value = (frames * torch_probe).sum()
    value.backward()
    return float(value), frames.detach().numpy()

  return call


def products_ratio(rng: np.random.Generator) -> float:
  """Return PyTorch's time for a block's matrix products, divided by XLA's."""
  frames, jitted = UTTERANCES * FRAMES // 8, jax.jit(linear_products)
  total = {'xla': 0.0, 'torch': 0.0}
  for (inputs, outputs), count in LINEAR_LAYERS.items():
    shapes = (frames, inputs), (inputs, outputs), (frames, outputs)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    jax_arrays = [jnp.asarray(x) for x in arrays]
    tensors = [torch.from_numpy(x) for x in arrays]
    calls = {
      'xla': lambda x=jax_arrays: jax.block_until_ready(jitted(*x)),
      'torch': lambda x=tensors: linear_products(*x),
    }
    calls['xla']()  # compiles
    for name, seconds in median_seconds(calls, rounds=40).items():
      total[name] += count * seconds
  return total['torch'] / total['xla']


def linear_products(x, weight, gradient):
  """Return a linear layer's output, and the gradients of its input and weight."""
  return x @ weight, gradient @ weight.T, x.T @ gradient


def median_seconds(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
  """Return the median seconds of each call, measured in alternation."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for number in range(1, rounds + 1):
    for name, call in calls.items():
      time.sleep(0.02)  # until the other's threads are idle
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
    if rounds < 10 or number % 10 == 0:
      last = {name: round(values[-1], 3) for name, values in seconds.items()}
      print(f'{number}/{rounds}', last)
  return {name: float(np.median(values)) for name, values in seconds.items()}


def main(argv: list[str]) -> None:
  """Alternate both; print the ratio of their medians."""
  del argv
  transformers_logging.disable_progress_bar()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  config = ParakeetEncoderConfig(**SIZES, num_hidden_layers=_LAYERS.value, **NO_DROPOUT)
  model = ParakeetEncoder(config).eval()  # batch norm by running statistics, as in ours
  rng = np.random.default_rng(0)
  log_mel = rng.normal(size=(UTTERANCES, FRAMES, 80)).astype(np.float32)
  probe = rng.normal(size=(UTTERANCES, FRAMES // 8, 512)).astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    calls = {
      'ours': our_step(folder, log_mel, probe),
      'torch': torch_step(model, log_mel, probe),
    }
  frames = {name: call()[1] for name, call in calls.items()}  # also compiles
  difference = float(np.abs(frames['ours'] - frames['torch']).max())
  if difference > MAX_DIFFERENCE:
    raise ValueError(f'the frames differ by {difference}; limit {MAX_DIFFERENCE}')
  median = median_seconds(calls, _ROUNDS.value)
  audio_seconds = UTTERANCES * FRAMES / 100
  result = {
    'ratio_vs_torch': median['torch'] / median['ours'],
    'audio_seconds_per_second': audio_seconds / median['ours'],
    'audio_seconds_per_second_torch': audio_seconds / median['torch'],
    'ratio_of_products_alone': products_ratio(rng),
    'max_abs_difference': difference,
    'layers': _LAYERS.value,
    'packed': _PACKED.value,
    'device': jax.devices()[0].device_kind,
  }
  print_result(
    {k: round(v, 6) if isinstance(v, float) else v for k, v in result.items()}
  )


if __name__ == '__main__':
  app.run(main)
