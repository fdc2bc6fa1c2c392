# SPDX-License-Identifier: Apache-2.0
"""Decode by the batch engine with a 7B LLM on one accelerator: share of the roofline.

  .venv/bin/python benchmarks/gpu_decode.py --dtype=bfloat16 [--tiny]

Weights and prompts are random, and every response has the greatest length. A decode
step must read every weight once (of the embeddings a row per token) and the keys and
values so far. `hbm_share` is those bytes per second over the maker's bandwidth; time of
prefill counts as decoding time. The last line is JSON.
"""

import collections
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from benchmarks.flops import Sizes
from benchmarks.gpu_model import bytes_of, fastest, random_llama, share
from benchmarks.gpu_step import LAYERS, TINY
from benchmarks.machine import print_result

PROMPT = 64  # tokens


def measure(
  sizes: Sizes, layers: int, dtype: str, slots: int, new_tokens: int, rounds: int
) -> dict:
  """Return the figures of decoding a full batch."""
  llama = random_llama(sizes.llama(layers), dtype)
  prompt = min(PROMPT, new_tokens)
  rng = np.random.default_rng(0)
  prompts = rng.integers(0, sizes.vocabulary, (slots, prompt)).tolist()
  requests = [Request(str(i), tuple(tokens)) for i, tokens in enumerate(prompts)]
  config = EngineConfig(slots, prompt, new_tokens, DecodeRules())
  engine = Engine(llama, config)
  seconds = fastest(lambda: collections.deque(engine.run(requests), maxlen=0), rounds)
  runs = rounds + 1
  tokens, steps = engine.statistics.tokens / runs, engine.statistics.steps / runs
  weights = bytes_of(llama) - bytes_of(llama.embed_tokens)
  width = sizes.key_value_heads * (sizes.width // sizes.heads)
  per_token = 2 * layers * width * llama.dtype.itemsize
  cache = slots * (prompt + new_tokens / 2) * per_token  # on average
  return {
    'figure': 'decode',
    'dtype': dtype,
    'slots': slots,
    'decode_tokens_per_second': round(tokens / seconds, 1),
    'decode_step_ms': round(1_000 * seconds / steps, 3),
    'bytes_per_step': int(weights + cache),
    'hbm_share': share(steps * (weights + cache) / seconds, 1),
  }


def main(argv: list[str]) -> None:
  """Measure and print."""
  del argv
  args = flags.FLAGS
  sizes, layers = (TINY, 2) if args.tiny else (Sizes(), LAYERS)
  slots, new_tokens = (3, 7) if args.tiny else (args.slots, 256)
  print_result(measure(sizes, layers, args.dtype, slots, new_tokens, args.rounds))


if __name__ == '__main__':
  # Here and not at import, because other benchmarks have flags of the same names.
  flags.DEFINE_enum('dtype', 'bfloat16', ['float32', 'bfloat16', 'int8'], 'of the LLM')
  flags.DEFINE_bool('tiny', False, 'tiny shapes, for a test')
  flags.DEFINE_integer('slots', 32, 'of the engine', lower_bound=1)
  flags.DEFINE_integer('rounds', 2, 'measured runs', lower_bound=1)
  app.run(main)
