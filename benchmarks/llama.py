# SPDX-License-Identifier: Apache-2.0
"""Compare our Llama with the families of Transformers, as the frozen LLM of a step.

  .venv/bin/python benchmarks/llama.py

Forward, and backward to the input embeddings, of a random model of each family with the
sizes of SmolLM2-135M, in float32, by as many threads and in alternation. The last line
is JSON: `ratio_vs_transformers` above 1 means that ours is faster.
`ratio_of_products_alone` compares XLA with PyTorch on just the matrix products of a
layer, and `ratio_over_products` is the quotient of both.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from absl import app, flags
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.models.llama import Llama
from acl_jax.models.llama_config import LlamaConfig
from acl_jax.models.speech_llm import causal_segment_mask
from acl_jax.weights.llama import load_llama
from benchmarks.machine import print_result

_ROUNDS = flags.DEFINE_integer('rounds', 6, 'measured steps of each', lower_bound=1)
_LAYERS = flags.DEFINE_integer('layers', 30, 'of each model', lower_bound=1)
_ROWS = flags.DEFINE_integer('rows', 4, 'of a batch', lower_bound=1)

LENGTH = 256  # tokens of a row
SIZES: dict[str, Any] = {
  'vocab_size': 300,  # the embeddings are inputs here
  'hidden_size': 576,
  'intermediate_size': 1_536,
  'num_attention_heads': 9,
  'num_key_value_heads': 3,
  'head_dim': 64,
  'max_position_embeddings': 2_048,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'pad_token_id': None,
}
THETA = 1e5
LLAMA3_ROPE = {
  'rope_type': 'llama3',
  'rope_theta': THETA,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 128,
}
# The `model_type` of each family, and what it does not share.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
  'llama2': ('llama', {'num_key_value_heads': 9}),
  'llama3.1': ('llama', {'rope_parameters': LLAMA3_ROPE}),
  'smollm2': ('llama', {'tie_word_embeddings': True}),
  'smollm3': ('smollm3', {'tie_word_embeddings': True}),
  'mistral-window': ('mistral', {'sliding_window': 100}),
  'qwen2': ('qwen2', {}),
  'qwen3': ('qwen3', {'head_dim': 128}),
}
MAX_DIFFERENCE = 1e-3  # of the gradients, over the largest; rounding stays below


def build(family: str) -> Any:
  """Return the random model of Transformers, frozen."""
  model_type, changes = FAMILIES[family]
  rope = {'rope_type': 'default', 'rope_theta': THETA}
  fields = SIZES | {'rope_parameters': rope, 'num_hidden_layers': _LAYERS.value}
  config = transformers.AutoConfig.for_model(model_type, **fields | changes)
  model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
  return model.requires_grad_(False)


def our_step(model: Llama, x: np.ndarray, probe: np.ndarray) -> Callable:
  """Return our gradient of the inputs, of a weighted sum of the hidden states."""
  inputs, weights = jnp.asarray(x), jnp.asarray(probe)
  positions, mask = causal_segment_mask(jnp.ones(x.shape[:2], jnp.int32))

  @jax.jit
  def gradient(model, x):
    return jax.grad(lambda x: jnp.sum(model(x, positions, mask)[0] * weights))(x)

  return lambda: np.asarray(gradient(model, inputs))


def torch_step(model: Any, x: np.ndarray, probe: np.ndarray) -> Callable:
  """Return the same of Transformers."""
  weights = torch.from_numpy(probe)

  def call() -> np.ndarray:
    inputs = torch.from_numpy(x).requires_grad_()
    hidden = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
    (gradient,) = torch.autograd.grad((hidden * weights).sum(), inputs)
    return gradient.numpy()

  return call


@functools.cache
def products_ratio(config: LlamaConfig) -> float:
  """Return PyTorch's time for a layer's matrix products, divided by XLA's."""
  d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
  queries, keys = config.num_attention_heads * h, config.num_key_value_heads * h
  linear_layers = {(d, queries): 1, (d, keys): 2, (queries, d): 1, (d, f): 2, (f, d): 1}
  rng, rows = np.random.default_rng(0), _ROWS.value * LENGTH
  total, jitted = {'xla': 0.0, 'torch': 0.0}, jax.jit(products)
  for (inputs, outputs), count in linear_layers.items():
    shapes = (rows, inputs), (inputs, outputs), (rows, outputs)
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    calls = {
      'xla': functools.partial(run_xla, jitted, [jnp.asarray(x) for x in arrays]),
      'torch': functools.partial(products, *(torch.from_numpy(x) for x in arrays)),
    }
    for name, seconds in median_seconds(calls, rounds=30).items():
      total[name] += count * seconds
  return total['torch'] / total['xla']


def run_xla(function: Callable, arguments: list) -> None:
  """Run a jitted function to its end."""
  jax.block_until_ready(function(*arguments))


def products(x, weight, gradient):
  """Return the output of a frozen linear layer, and the gradient of its input."""
  return x @ weight, gradient @ weight.T


def median_seconds(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
  """Return the median seconds of each call, in alternation; the first is a warm-up."""
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds + 1):
    for name, call in calls.items():
      time.sleep(0.02)  # until the other's threads are idle
      start = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - start)
  return {name: float(np.median(values[1:])) for name, values in seconds.items()}


def compare(family: str) -> tuple[float, float]:
  """Return the ratio of a family, and that of its products; both above 1 are ours."""
  reference = build(family)
  with tempfile.TemporaryDirectory() as folder:
    reference.save_pretrained(folder)
    model = load_llama(folder)
  rng = np.random.default_rng(0)
  shape = _ROWS.value, LENGTH, model.config.hidden_size
  x, probe = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
  calls = {'ours': our_step(model, x, probe), 'torch': torch_step(reference, x, probe)}
  ours, theirs = (call() for call in calls.values())
  difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
  if difference > MAX_DIFFERENCE:
    raise ValueError(f'{family}: the gradients differ by {difference:.2g}')
  median = median_seconds(calls, _ROUNDS.value)
  return median['torch'] / median['ours'], products_ratio(model.config)


def main(argv: list[str]) -> None:
  """Print the ratio of every family."""
  del argv
  transformers_logging.disable_progress_bar()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.manual_seed(0)
  ratios, alone, quotients = {}, {}, {}
  for family in FAMILIES:
    ratio, of_products = compare(family)
    ratios[family], alone[family] = round(ratio, 3), round(of_products, 3)
    quotients[family] = round(ratio / of_products, 3)
    print(family, ratios[family], alone[family], flush=True)
  result = {
    'ratio_vs_transformers': ratios,
    'ratio_of_products_alone': alone,
    'ratio_over_products': quotients,
  }
  print_result({**result, 'layers': _LAYERS.value, 'rows': _ROWS.value})


if __name__ == '__main__':
  app.run(main)
