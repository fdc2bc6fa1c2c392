# SPDX-License-Identifier: Apache-2.0
"""The matrix products of the step that `train_step.py` measures, without the rest."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from acl_jax.models.llama import LlamaConfig
from acl_jax.models.whisper import WhisperConfig
from benchmarks.train_step_encoder import LORA


class Dense(NamedTuple):
  """A dense layer: rows of its input, widths of input and output, how it trains.

  trains: 'none' has no gradient of the matrix, 'lora' those of two factors.
  """

  rows: int
  inputs: int
  outputs: int
  trains: str


def dense_layers(
  llama: LlamaConfig, tokens: int, encoder: WhisperConfig, frames: int, trains: str
) -> list[Dense]:
  """List the dense layers of the LLM and, unless it is frozen, of the encoder."""
  d, f = llama.hidden_size, llama.intermediate_size
  queries = llama.num_attention_heads * llama.head_dim
  keys = llama.num_key_value_heads * llama.head_dim
  widths = [(d, queries), (d, keys), (d, keys), (queries, d), (d, f), (d, f), (f, d)]
  layers = [Dense(tokens, i, o, 'none') for i, o in widths] * llama.num_hidden_layers
  if trains == 'none':
    return layers
  d, f = encoder.d_model, encoder.encoder_ffn_dim
  widths = [(d, d)] * 4 + [(d, f), (f, d)]
  return (
    layers + [Dense(frames, i, o, trains) for i, o in widths] * encoder.encoder_layers
  )


def products(layer: Dense) -> Iterator[tuple[int, int, int]]:
  """Yield (rows, contracted, columns) of the products of both passes."""
  t, i, o, trains = layer
  yield from ((t, i, o), (t, o, i))
  if trains == 'full':
    yield (i, t, o)
  if trains == 'lora':
    r = LORA.rank
    yield from ((t, i, r), (t, r, o), (t, o, r), (t, r, i), (i, t, r), (r, t, o))


def make_steps(layers: list[Dense]) -> tuple[Callable[[], float], Callable[[], float]]:
  """Return functions that run all products, in JAX and in PyTorch."""
  shapes = [shape for layer in layers for shape in products(layer)]
  rng = np.random.default_rng(0)
  arrays = {
    shape: (
      rng.standard_normal(shape[:2], np.float32),
      rng.standard_normal(shape[1:], np.float32),
    )
    for shape in set(shapes)
  }
  ours = {shape: tuple(map(jnp.asarray, pair)) for shape, pair in arrays.items()}
  theirs = {shape: tuple(map(torch.tensor, pair)) for shape, pair in arrays.items()}

  multiply = jax.jit(jnp.matmul)

  def run() -> float:
    # A call for each product: within one function XLA would compute equal ones once.
    for shape in shapes:
      product = multiply(*ours[shape]).block_until_ready()
    return float(product[0, 0])

  def run_torch() -> float:
    with torch.inference_mode():
      for shape in shapes:
        product = torch.matmul(*theirs[shape])
    return float(product[0, 0])

  return run, run_torch
