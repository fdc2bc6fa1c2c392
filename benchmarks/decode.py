# SPDX-License-Identifier: Apache-2.0
"""SmolLM2 answers real prompts: the batch engine, and Transformers' `generate`.

  .venv/bin/python benchmarks/decode.py

The transcripts of the shipped recordings, greedy, float32, all threads, in turns.
Transformers decodes static batches of prompts of like length, at the fastest of
`--batches`; it answers the first `--theirs` of the prompts, in about the time in which
ours answers all. Steps of static batches are those of batches as large as the engine
has slots, of prompts of like length or as they come, whichever are fewer. The last line
is JSON; a ratio above 1 means that ours is faster.
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

_EXAMPLES = flags.DEFINE_integer('examples', 297, 'prompts', lower_bound=1)
_THEIRS = flags.DEFINE_integer('theirs', 96, "of them, Transformers'", lower_bound=1)
_ROUNDS = flags.DEFINE_integer('rounds', 1, 'measured runs of each', lower_bound=1)
_SLOTS = flags.DEFINE_integer('slots', 32, 'slots of the engine', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'decode steps of a call', lower_bound=1)
_TOKENS = flags.DEFINE_integer('max_new_tokens', 512, 'of a response', lower_bound=1)
_BATCHES = flags.DEFINE_multi_integer('batches', [32], "Transformers' to try")

LLAMA = 'asset:smollm2-135m-instruct'
MAX_PROMPT = 128  # tokens, as configs/smol.py has it
RECORDINGS = Path('data_pipeline/recordings/manifest.jsonl')


def read_prompts(tokenizer) -> list[tuple[int, ...]]:
  """A sample of the recordings' transcripts, as chats, without those of a page."""
  lines = (Path(__file__).parent.parent / RECORDINGS).read_text().splitlines()
  rng = np.random.default_rng(0)
  chosen = rng.permutation(len(lines))[: _EXAMPLES.value]
  prompts = []
  for i in chosen:
    [prompt] = chatml([Turn('user', json.loads(lines[i])['text'])], tokenizer)
    assert isinstance(prompt, tuple)  # without audio it is one segment
    prompts.append(prompt)
  return [prompt for prompt in prompts if len(prompt) <= MAX_PROMPT]


class Ours:
  """The engine; a call answers all prompts."""

  def __init__(self, prompts, stop_ids):
    start = common_prefix_length(prompts)
    self.requests = [
      Request(str(i), prompt[start:]) for i, prompt in enumerate(prompts)
    ]
    longest = max(len(request.prompt) for request in self.requests)
    llama = load_llama(assets.resolve(LLAMA))

    def new(top: int = 0) -> Engine:
      rules = DecodeRules(stop_ids=stop_ids, top=top, steps=_STEPS.value)
      config = EngineConfig(_SLOTS.value, longest, _TOKENS.value, rules)
      return Engine(llama, config, prefix=prompts[0][:start])

    self.new = new

  def __call__(self):
    self.engine = self.new()
    made = {int(r.request.id): r for r in self.engine.run(self.requests)}
    return [made[i] for i in range(len(made))]

  def margins(self, places: dict[int, int]) -> list[float]:
    """How much likelier a response's token was than the second likeliest, in nats."""
    asked = [self.requests[number] for number in places]
    found = {int(r.request.id): r for r in self.new(top=2).run(asked)}
    chosen = (found[i].top_log_probs[place] for i, place in places.items())
    return [round(float(first - second), 6) for first, second in chosen]

  def compile(self) -> None:
    """Answers all prompts in two tokens: every shape is met."""
    short = (dataclasses.replace(r, max_new_tokens=2) for r in self.requests)
    collections.deque(self.new().run(short), maxlen=0)


class Theirs:
  """Transformers; a call answers all prompts in batches of one size."""

  def __init__(self, prompts, stop_ids):
    path = assets.resolve(LLAMA)
    self.model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    self.model.eval()
    self.prompts, self.stop_ids = prompts, stop_ids

  def __call__(self, size: int) -> list[list[int]]:
    order = sorted(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
    made = {}
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
      made |= zip(batch, out[:, length:].tolist(), strict=True)
    return [_cut(made[i], self.stop_ids) for i in range(len(made))]


def _cut(tokens: list[int], stop_ids) -> list[int]:
  """Without what comes after a stop token."""
  ends = [place for place, token in enumerate(tokens) if token in stop_ids]
  return tokens[: ends[0] + 1] if ends else tokens


def timed(call, *arguments):
  """What a call returns, and how many seconds it took."""
  start = time.perf_counter()
  result = call(*arguments)
  return result, time.perf_counter() - start


def static_steps(lengths: list[int], order: list[int], size: int) -> int:
  """Decode steps of static batches; the first token of each comes with its prompt."""
  batches = (order[start : start + size] for start in range(0, len(order), size))
  return sum(max(lengths[i] for i in batch) - 1 for batch in batches)


def differences(ours, theirs) -> dict[int, int]:
  """Which responses differ, and the place of the first token that does."""
  found = {}
  for number, (response, tokens) in enumerate(zip(ours, theirs, strict=True)):
    if (said := response.tokens.tolist()) != tokens:
      place = len(os.path.commonprefix([said, tokens]))
      found[number] = min(place, len(said) - 1)
  return found


def main(argv: list[str]) -> None:
  """Alternates both and prints rates, steps and agreement."""
  del argv
  transformers_logging.disable_progress_bar()
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  tokenizer = load_tokenizer(assets.resolve(LLAMA))
  prompts = read_prompts(tokenizer)
  ours = Ours(prompts, tokenizer.stop_ids)
  theirs = Theirs(prompts[: _THEIRS.value], tokenizer.stop_ids)
  responses, answers = [], []
  _, compiling = timed(ours.compile)
  seconds = {'ours': [], **{f'theirs at {size}': [] for size in _BATCHES.value}}
  print(f'compiled in {compiling:.0f} s', flush=True)
  for number in range(_ROUNDS.value):
    responses, took = timed(ours)
    seconds['ours'].append(took)
    print(f'ours {took:.1f} s, {ours.engine.statistics}', flush=True)
    for size in _BATCHES.value:
      answers, took = timed(theirs, size)
      seconds[f'theirs at {size}'].append(took)
      print(f'theirs at {size}: {took:.1f} s', flush=True)
    print(f'round {number + 1} of {_ROUNDS.value}', flush=True)
  lengths = [len(response.tokens) for response in responses]
  differ = differences(responses[: len(answers)], answers)
  median = {name: float(np.median(values)) for name, values in seconds.items()}
  best = min((name for name in median if name != 'ours'), key=median.__getitem__)
  done = ours.engine.statistics
  numbers = list(range(len(prompts)))
  sorted_ = sorted(numbers, key=lambda i: len(prompts[i]))
  static = min(static_steps(lengths, x, _SLOTS.value) for x in (numbers, sorted_))
  theirs_tokens = sum(map(len, answers))
  result = {
    'slot_utilisation': done.full_tokens / (done.full_steps * _SLOTS.value),
    'slot_utilisation_to_the_end': done.tokens / (done.steps * _SLOTS.value),
    'steps_ratio_vs_static': static / done.steps,
    'steps': done.steps,
    'tokens_per_second': done.tokens / median['ours'],
    'tokens_per_second_transformers': theirs_tokens / median[best],
    'ratio_vs_transformers': done.tokens
    / median['ours']
    / (theirs_tokens / median[best]),
    'transformers_batch': int(best.split()[-1]),
    'same_greedy': 1 - len(differ) / len(answers),
    'margins_where_not': ours.margins(differ) if differ else [],
    'response_tokens': [int(x) for x in np.percentile(lengths, (0, 25, 50, 75, 100))],
    'mean_response_tokens': float(np.mean(lengths)),
    'compile_seconds': compiling,
    'slots': _SLOTS.value,
    'steps_per_call': _STEPS.value,
    'device': jax.devices()[0].device_kind,
  }
  print(
    json.dumps(
      {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
    )
  )


if __name__ == '__main__':
  app.run(main)
