# SPDX-License-Identifier: Apache-2.0
"""The paper-size Conformer, forward and backward, and Transformers' `ParakeetEncoder`.

  .venv/bin/python benchmarks/encoder.py

The same weights, float32 and threads, in turns. Both hear the same utterances of 15 s:
ours packed, `--packed` of them a row, theirs one a row. The last line is JSON; a ratio
above 1 means that ours is faster. `ratio_of_products_alone` is that of the matrix
products of a block's dense maps, by XLA and by PyTorch, with nothing between them.
"""

import json
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

_ROUNDS = flags.DEFINE_integer('rounds', 8, 'measured steps of each', lower_bound=1)
_PACKED = flags.DEFINE_integer('packed', 2, 'utterances of a row of ours, 1, 2 or 4')
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
PRODUCTS = {  # the dense maps of a block, by their sizes, and how many there are
  (WIDTH, WIDE): 2,  # into the feed-forwards
  (WIDE, WIDTH): 2,  # out of them
  (WIDTH, WIDTH): 5,  # four of attention, and the convolution's last
  (WIDTH, 2 * WIDTH): 1,  # the convolution's gate
}
CLOSE = 1e-3  # the frames of both; larger is another model, not another rounding


def ours(folder: str, log_mel: np.ndarray, probe: np.ndarray) -> Callable:
  """Our forward and backward; each call returns the loss and the frames."""
  model = load_conformer(folder)
  assert isinstance(model, Conformer)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  rows = UTTERANCES // _PACKED.value
  packed, wanted = (
    jnp.asarray(x.reshape(rows, -1, x.shape[-1])) for x in (log_mel, probe)
  )
  ids = jnp.broadcast_to(
    jnp.arange(_PACKED.value * FRAMES) // FRAMES + 1, packed.shape[:2]
  )

  @jax.jit
  def both(params):
    def loss(params):
      model = nnx.merge(graphdef, params, rest)
      frames = model.encode(packed, ids, remat='dots').frames  # as in training
      return jnp.sum(frames * wanted), frames

    return jax.value_and_grad(loss, has_aux=True)(params)

  def call():
    (value, frames), gradient = jax.block_until_ready(both(params))
    del gradient
    return float(value), np.asarray(frames).reshape(probe.shape)

  return call


def theirs(model: ParakeetEncoder, log_mel: np.ndarray, probe: np.ndarray) -> Callable:
  """The same of Transformers."""
  x, wanted = torch.from_numpy(log_mel), torch.from_numpy(probe)
  mask = torch.ones(x.shape[:2], dtype=torch.bool)

  def call():
    model.zero_grad()
    frames = model(x, attention_mask=mask).last_hidden_state
    value = (frames * wanted).sum()
    value.backward()
    return float(value), frames.detach().numpy()

  return call


def products(rng: np.random.Generator) -> float:
  """How often XLA does a block's matrix products while PyTorch does them once."""
  frames, jitted = UTTERANCES * FRAMES // 8, jax.jit(three)
  total = {'xla': 0.0, 'torch': 0.0}
  for (inputs, outputs), count in PRODUCTS.items():
    shapes = (frames, inputs), (inputs, outputs), (frames, outputs)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    ours, theirs = [*map(jnp.asarray, arrays)], [*map(torch.from_numpy, arrays)]
    calls = {
      'xla': lambda ours=ours: jax.block_until_ready(jitted(*ours)),
      'torch': lambda theirs=theirs: three(*theirs),
    }
    calls['xla']()  # compiles
    for name, seconds in in_turns(calls, rounds=40).items():
      total[name] += count * seconds
  return total['torch'] / total['xla']


def three(x, weight, gradient):
  """A dense map, and the gradients of its input and of its weight."""
  return x @ weight, gradient @ weight.T, x.T @ gradient


def in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
  """The median seconds of each, which take turns."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for number in range(1, rounds + 1):
    for name, call in calls.items():
      time.sleep(0.02)  # until the other's threads rest
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
    if rounds < 10 or number % 10 == 0:
      last = {name: round(values[-1], 3) for name, values in seconds.items()}
      print(f'{number}/{rounds}', last)
  return {name: float(np.median(values)) for name, values in seconds.items()}


def main(argv: list[str]) -> None:
  """Alternates both and prints the ratio of their medians."""
  del argv
  transformers_logging.disable_progress_bar()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  config = ParakeetEncoderConfig(**SIZES, num_hidden_layers=_LAYERS.value, **NO_DROPOUT)
  model = ParakeetEncoder(config).eval()  # batch norm by its averages, as in ours
  rng = np.random.default_rng(0)
  log_mel = rng.normal(size=(UTTERANCES, FRAMES, 80)).astype(np.float32)
  probe = rng.normal(size=(UTTERANCES, FRAMES // 8, 512)).astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    calls = {
      'ours': ours(folder, log_mel, probe),
      'torch': theirs(model, log_mel, probe),
    }
  frames = {name: call()[1] for name, call in calls.items()}  # compiles, too
  difference = float(np.abs(frames['ours'] - frames['torch']).max())
  if difference > CLOSE:
    raise ValueError(f'the frames differ by {difference}, more than {CLOSE}')
  median = in_turns(calls, _ROUNDS.value)
  heard = UTTERANCES * FRAMES / 100
  result = {
    'ratio_vs_torch': median['torch'] / median['ours'],
    'audio_seconds_per_second': heard / median['ours'],
    'audio_seconds_per_second_torch': heard / median['torch'],
    'ratio_of_products_alone': products(rng),
    'max_abs_difference': difference,
    'layers': _LAYERS.value,
    'packed': _PACKED.value,
    'device': jax.devices()[0].device_kind,
  }
  print(
    json.dumps(
      {k: round(v, 6) if isinstance(v, float) else v for k, v in result.items()}
    )
  )


if __name__ == '__main__':
  app.run(main)
