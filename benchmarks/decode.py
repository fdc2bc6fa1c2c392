# SPDX-License-Identifier: Apache-2.0
"""Compare decoding by our engine with Transformers' `generate`, on SmolLM2.

  .venv/bin/python benchmarks/decode.py

Prompts are transcripts of the shipped recordings. Both decode greedily in float32 with
all threads, in alternation. Transformers decodes static batches of prompts of similar
length, at the fastest size of `--batches`; it gets only the first `--theirs` prompts,
which take it about as long as all take the engine. Steps of static batches are counted
for batches as large as the engine's number of slots, of prompts sorted by length or
unsorted, whichever takes fewer steps. The last line is JSON; a ratio above 1 means that
ours is faster.
"""

import collections
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import torch
from absl import app, flags
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from acl_jax import assets
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.targets.prompting import common_prefix_length
from acl_jax.text.templates import Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama
from benchmarks.machine import print_result

_EXAMPLES = flags.DEFINE_integer('examples', 297, 'prompts', lower_bound=1)
_THEIRS = flags.DEFINE_integer('theirs', 96, 'prompts of Transformers', lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 1, 'measured runs of each', lower_bound=1)
_SLOTS = flags.DEFINE_integer('slots', 32, 'slots of the engine', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'decode steps per call', lower_bound=1)
_TOKENS = flags.DEFINE_integer('max_new_tokens', 512, 'response limit', lower_bound=1)
_BATCHES = flags.DEFINE_multi_integer('batches', [32], "Transformers' batch sizes")

LLAMA = 'asset:smollm2-135m-instruct'
MAX_PROMPT = 128  # tokens, as in configs/smol.py
RECORDINGS = Path('data_pipeline/recordings/manifest.jsonl')


def read_prompts(tokenizer) -> list[tuple[int, ...]]:
  """Return a random sample of the transcripts as chat prompts, without long ones."""
  lines = (Path(__file__).parent.parent / RECORDINGS).read_text().splitlines()
  rng = np.random.default_rng(0)
  chosen = rng.permutation(len(lines))[: _EXAMPLES.value]
  prompts = []
  for i in chosen:
    [prompt] = chatml([Turn('user', json.loads(lines[i])['text'])], tokenizer)
    assert isinstance(prompt, tuple)  # one segment, as there is no audio
    prompts.append(prompt)
  return [prompt for prompt in prompts if len(prompt) <= MAX_PROMPT]


class OurDecoder:
  """The engine; a call decodes all responses."""

  def __init__(self, prompts, stop_ids):
    start = common_prefix_length(prompts)
    self.requests = [
      Request(str(i), prompt[start:]) for i, prompt in enumerate(prompts)
    ]
    longest = max(len(request.prompt) for request in self.requests)
    llama = load_llama(assets.resolve(LLAMA))

    def make_engine(num_top_tokens: int = 0) -> Engine:
      rules = DecodeRules(
        stop_ids=stop_ids, num_top_tokens=num_top_tokens, steps=_STEPS.value
      )
      config = EngineConfig(_SLOTS.value, longest, _TOKENS.value, rules)
      return Engine(llama, config, shared_prefix=prompts[0][:start])

    self.make_engine = make_engine

  def __call__(self):
    self.engine = self.make_engine()
    responses = {int(r.request.id): r for r in self.engine.run(self.requests)}
    return [responses[i] for i in range(len(responses))]

  def margins(self, positions: dict[int, int]) -> list[float]:
    """Return the log-probability margin over the second likeliest token, in nats.

    Args:
      positions: The position in the response by the index of its request.
    """
    engine = self.make_engine(num_top_tokens=2)
    requests = [self.requests[i] for i in positions]
    responses = {int(r.request.id): r for r in engine.run(requests)}
    pairs = (responses[i].top_log_probs[position] for i, position in positions.items())
    return [round(float(first - second), 6) for first, second in pairs]

  def compile(self) -> None:
    """Decode two tokens for every prompt, which compiles every shape."""
    short = (dataclasses.replace(r, max_new_tokens=2) for r in self.requests)
    collections.deque(self.make_engine().run(short), maxlen=0)


class TransformersDecoder:
  """Transformers; a call decodes all responses in batches of one size."""

  def __init__(self, prompts, stop_ids):
    path = assets.resolve(LLAMA)
    self.model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    self.model.eval()
    self.prompts, self.stop_ids = prompts, stop_ids

  def __call__(self, size: int) -> list[list[int]]:
    order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
    responses = {}
    for start in range(0, len(order), size):
      batch = order[start : start + size]
      length = max(len(self.prompts[i]) for i in batch)
      tokens = torch.full((len(batch), length), self.stop_ids[0])
      mask = torch.zeros_like(tokens)
      for row, i in enumerate(batch):
        tokens[row, length - len(self.prompts[i]) :] = torch.tensor(self.prompts[i])
        mask[row, length - len(self.prompts[i]) :] = 1
      out = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
        tokens,
        attention_mask=mask,
        max_new_tokens=_TOKENS.value,
        do_sample=False,
        eos_token_id=list(self.stop_ids),
        pad_token_id=self.stop_ids[0],
      )
      responses |= zip(batch, out[:, length:].tolist(), strict=True)
    return [_truncate(responses[i], self.stop_ids) for i in range(len(responses))]


def _truncate(tokens: list[int], stop_ids) -> list[int]:
  """Remove the tokens after the first stop token."""
  stops = [i for i, token in enumerate(tokens) if token in stop_ids]
  return tokens[: stops[0] + 1] if stops else tokens


def timed(call, *arguments):
  """Return the result of a call and the seconds it took."""
  start = time.perf_counter()
  result = call(*arguments)
  return result, time.perf_counter() - start


def static_steps(lengths: list[int], order: list[int], size: int) -> int:
  """Count decode steps of static batches; prefill decodes the first token."""
  batches = (order[start : start + size] for start in range(0, len(order), size))
  return sum(max(lengths[i] for i in batch) - 1 for batch in batches)


def differences(ours, theirs) -> dict[int, int]:
  """Return the position of the first different token by the response's index."""
  positions = {}
  for i, (response, their_tokens) in enumerate(zip(ours, theirs, strict=True)):
    tokens = response.tokens.tolist()
    if tokens != their_tokens:
      position = len(os.path.commonprefix([tokens, their_tokens]))
      positions[i] = min(position, len(tokens) - 1)
  return positions


def main(argv: list[str]) -> None:
  """Alternate both; print rates, steps and agreement."""
  del argv
  transformers_logging.disable_progress_bar()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tokenizer = load_tokenizer(assets.resolve(LLAMA))
  prompts = read_prompts(tokenizer)
  ours = OurDecoder(prompts, tokenizer.stop_ids)
  theirs = TransformersDecoder(prompts[: _THEIRS.value], tokenizer.stop_ids)
  our_responses, their_responses = [], []
  _, compile_seconds = timed(ours.compile)
  seconds = {'ours': []} | {f'theirs at {size}': [] for size in _BATCHES.value}
  print(f'compiled in {compile_seconds:.0f} s', flush=True)
  for number in range(_ROUNDS.value):
    our_responses, elapsed = timed(ours)
    seconds['ours'].append(elapsed)
    print(f'ours {elapsed:.1f} s, {ours.engine.statistics}', flush=True)
    for size in _BATCHES.value:
      their_responses, elapsed = timed(theirs, size)
      seconds[f'theirs at {size}'].append(elapsed)
      print(f'theirs at {size}: {elapsed:.1f} s', flush=True)
    print(f'round {number + 1} of {_ROUNDS.value}', flush=True)
  lengths = [len(response.tokens) for response in our_responses]
  differing = differences(our_responses[: len(their_responses)], their_responses)
  median = {name: float(np.median(values)) for name, values in seconds.items()}
  best = min((name for name in median if name != 'ours'), key=median.__getitem__)
  statistics = ours.engine.statistics
  unsorted = list(range(len(prompts)))
  by_length = sorted(unsorted, key=lambda i: len(prompts[i]))
  static = min(static_steps(lengths, x, _SLOTS.value) for x in (unsorted, by_length))
  our_rate = statistics.tokens / median['ours']
  their_rate = sum(map(len, their_responses)) / median[best]
  slot_steps = statistics.steps * _SLOTS.value
  full_slot_steps = statistics.full_steps * _SLOTS.value
  result = {
    'slot_utilisation': statistics.full_tokens / full_slot_steps,
    'slot_utilisation_to_the_end': statistics.tokens / slot_steps,
    'steps_ratio_vs_static': static / statistics.steps,
    'steps': statistics.steps,
    'tokens_per_second': our_rate,
    'tokens_per_second_transformers': their_rate,
    'ratio_vs_transformers': our_rate / their_rate,
    'transformers_batch': int(best.split()[-1]),
    'same_greedy': 1 - len(differing) / len(their_responses),
    'margins_where_not': ours.margins(differing) if differing else [],
    'response_tokens': [int(x) for x in np.percentile(lengths, (0, 25, 50, 75, 100))],
    'mean_response_tokens': float(np.mean(lengths)),
    'compile_seconds': compile_seconds,
    'slots': _SLOTS.value,
    'steps_per_call': _STEPS.value,
    'device': jax.devices()[0].device_kind,
  }
  print_result(
    {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
  )


if __name__ == '__main__':
  app.run(main)
