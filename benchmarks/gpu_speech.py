# SPDX-License-Identifier: Apache-2.0
"""The paper's Conformer, forward and backward, and log-mel frames on one accelerator.

  .venv/bin/python benchmarks/gpu_speech.py [--tiny]

The encoder has random weights and full rows of two utterances of 15 s. Log-mel frames
are Whisper's, computed by XLA from samples on the device; `log_mel_max_difference` is
from `data_pipeline.features`, which computes them on the host. The last line is JSON.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from jaxtyping import Array, Float

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.config.defaults import PAPER_CONFORMER
from acl_jax.models.conformer import Conformer, ConformerConfig
from benchmarks.gpu_model import fastest
from benchmarks.machine import print_result
from data_pipeline.features import (
  HOP,
  SAMPLE_RATE,
  WINDOW,
  mel_filters,
  whisper_log_mel,
)

UTTERANCES, SECONDS, PER_ROW = 32, 15, 2
TINY_SIZES = dict(
  hidden_size=16,
  num_hidden_layers=1,
  num_attention_heads=2,
  intermediate_size=24,
  conv_kernel_size=3,
  subsampling_conv_channels=8,
)


def encoder_figures(utterances: int, seconds: float, sizes: dict, rounds: int) -> dict:
  """Return the time of the encoder and of the gradient of all its parameters."""
  model = Conformer(ConformerConfig(**sizes), rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  step = PER_ROW * model.config.subsampling_factor
  length = int(100 * PER_ROW * seconds) // step * step  # log-mel frames of a row
  shape = (utterances // PER_ROW, length, model.config.num_mel_bins)
  log_mel = jax.random.normal(jax.random.key(0), shape, jnp.float32)
  segment_ids = jnp.arange(length) // (length // PER_ROW) + 1
  segment_ids = jnp.broadcast_to(segment_ids, shape[:2])

  @jax.jit
  def gradient(params):
    def loss(params):
      encoder = nnx.merge(graphdef, params, rest)
      frames = encoder.encode(log_mel, segment_ids, remat='dots').frames
      return jnp.mean(jnp.square(frames.astype(jnp.float32)))

    return jax.grad(loss)(params)

  best = fastest(lambda: jax.block_until_ready(gradient(params)), rounds)
  audio = shape[0] * length / 100
  return {'encoder_seconds': round(best, 6), 'encoder_x_real_time': round(audio / best)}


@jax.jit
def device_log_mel(
  audio: Float[Array, 'b samples'], filters: Float[Array, 'f m']
) -> Float[Array, 'b t m']:
  """Return `whisper_log_mel` of every row."""
  padded = jnp.pad(audio, ((0, 0), (WINDOW // 2, WINDOW // 2)), mode='reflect')
  positions = HOP * np.arange(audio.shape[1] // HOP)[:, None] + np.arange(WINDOW)
  window = np.hanning(WINDOW + 1)[None, None, :-1].astype(np.float32)
  power = jnp.square(jnp.abs(jnp.fft.rfft(padded[:, positions] * window)))
  mel = jnp.matmul(power, filters, precision='highest')
  log_mel = jnp.log10(jnp.maximum(mel, 1e-10))
  log_mel = jnp.maximum(log_mel, log_mel.max((1, 2), keepdims=True) - 8.0)
  return (log_mel + 4.0) / 4.0


def log_mel_figures(utterances: int, seconds: float, rounds: int) -> dict:
  """Return the time of the spectrograms, and their distance from the host's."""
  samples = int(SAMPLE_RATE * seconds)
  rng = np.random.default_rng(0)
  host = 0.1 * rng.standard_normal((utterances, samples), np.float32)
  audio, filters = jnp.asarray(host), jnp.asarray(mel_filters(80))
  difference = np.abs(device_log_mel(audio, filters)[0] - whisper_log_mel(host[0]))
  best = fastest(lambda: device_log_mel(audio, filters).block_until_ready(), rounds)
  return {
    'log_mel_seconds': round(best, 6),
    'log_mel_x_real_time': round(utterances * seconds / best),
    'log_mel_max_difference': float(difference.max()),
  }


def main(argv: list[str]) -> None:
  """Measure and print."""
  del argv
  args = flags.FLAGS
  utterances, seconds = (PER_ROW, 0.4) if args.tiny else (UTTERANCES, SECONDS)
  sizes = TINY_SIZES if args.tiny else PAPER_CONFORMER
  figures = encoder_figures(utterances, seconds, sizes, args.rounds)
  figures |= log_mel_figures(utterances, seconds, args.rounds)
  print_result({'figure': 'speech', **figures})


if __name__ == '__main__':
  # Here and not at import, because other benchmarks have flags of the same names.
  flags.DEFINE_bool('tiny', False, 'tiny shapes, for a test')
  flags.DEFINE_integer('rounds', 8, 'measured runs', lower_bound=1)
  app.run(main)
