# SPDX-License-Identifier: Apache-2.0
"""What the server is compared with, each in a process of its own.

`benchmarks/serve.py` runs this. --rival=transformers: `generate` of the exported model
answers one question after another. --rival=engine: our batch engine answers all of
them. Both hear the questions themselves, have compiled or loaded everything before the
clock starts, and decode greedily. The last line is JSON.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

from benchmarks import serve_questions

_RIVAL = flags.DEFINE_enum('rival', None, ['transformers', 'engine'], 'which one')
_QUESTIONS = flags.DEFINE_string('questions', None, 'a file of questions')
_COUNT = flags.DEFINE_integer('count', 16, 'questions to answer', lower_bound=1)
_MODEL = flags.DEFINE_string('model', None, 'an exported folder, or a config')
_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'of the config')
_TOKENS = flags.DEFINE_integer('max_tokens', 64, 'limit of an answer', lower_bound=1)
_SLOTS = flags.DEFINE_integer('slots', 8, 'answers decoded at once', lower_bound=1)


class Transformers:
  """The exported model."""

  def __init__(self, folder: str):
    import torch
    from transformers import AutoModel, AutoProcessor

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.model = AutoModel.from_pretrained(
      folder, torch_dtype='auto', trust_remote_code=True
    ).eval()
    self.processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    turns = [{'role': 'user', 'content': '<|audio|>'}]
    self.prompt = self.processor.apply_chat_template(turns, add_generation_prompt=True)

  def answer(self, samples: np.ndarray, max_tokens: int) -> tuple[list[int], float]:
    """Return the tokens of an answer and the seconds it took."""
    start = time.perf_counter()
    inputs = self.processor(self.prompt, audio=samples, sampling_rate=16_000)
    tokens = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    answer = tokens[0, inputs['input_ids'].shape[1] :].tolist()
    return answer, time.perf_counter() - start


def run_transformers(
  questions: Sequence[np.ndarray], max_tokens: int
) -> dict[str, Any]:
  """Answer one question after another; times of first tokens come from extra calls."""
  rival = Transformers(_MODEL.value or '')
  rival.answer(questions[0], 2)
  texts, count, seconds, first = [], 0, 0.0, []
  for samples in questions:
    tokens, elapsed = rival.answer(samples, max_tokens)
    texts.append(rival.processor.decode(tokens, skip_special_tokens=True))
    count, seconds = count + len(tokens), seconds + elapsed
    first.append(rival.answer(samples, 1)[1])
  return {
    'tokens_per_second': count / seconds,
    'ttft_ms_p50': 1_000 * statistics.median(first),
    'texts': texts,
  }


class BatchEngine:
  """Our batch engine, and the ears before it."""

  def __init__(self, config: str, checkpoint: str | None):
    import jax.numpy as jnp

    from acl_jax.assistant import load

    self.assistant = load(Path(config), checkpoint)
    text = self.assistant.text
    start, _, end = text.audio_prompt()
    assert not isinstance(start, int) and not isinstance(end, int)
    self.start, llama = start, self.assistant.model.llama
    self.end = np.asarray(llama.embed(jnp.asarray(end, jnp.int32)))

  def hear(self, questions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the prompts after their common start, heard anew."""
    from acl_jax.hearing.hearing import Hearing

    assistant = self.assistant
    hearing = Hearing(
      assistant.model, assistant.text.tokenizer, assistant.decode_transcript
    )
    heard = (hearing.hear(samples) for samples in questions)
    return [np.concatenate([clip.embeddings, self.end]) for clip in heard]

  def decode(self, prompts: Sequence[np.ndarray], max_tokens: int, slots: int) -> int:
    """Answer all prompts; return the number of tokens."""
    from acl_jax.generation.engine import Engine, EngineConfig, Request
    from acl_jax.generation.slots import DecodeRules

    stop_ids = self.assistant.text.tokenizer.stop_ids
    longest = max(map(len, prompts))
    config = EngineConfig(slots, longest, max_tokens, DecodeRules(stop_ids))
    engine = Engine(self.assistant.model.llama, config, shared_prefix=self.start)
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    return sum(len(response.tokens) for response in engine.run(requests))


def run_engine(
  questions: Sequence[np.ndarray], max_tokens: int, slots: int
) -> dict[str, Any]:
  """Hear all questions, then answer them; the first time is not counted."""
  rival = BatchEngine(_MODEL.value or '', _CHECKPOINT.value)
  rival.decode(rival.hear(questions), max_tokens, slots)
  start = time.perf_counter()
  prompts = rival.hear(questions)
  heard = time.perf_counter()
  count = rival.decode(prompts, max_tokens, slots)
  end = time.perf_counter()
  return {
    'tokens_per_second': count / (end - start),
    'tokens_per_second_without_hearing': count / (end - heard),
  }


def main(argv: list[str]) -> None:
  """Run one rival."""
  del argv
  questions = serve_questions.load(Path(_QUESTIONS.value or ''))[: _COUNT.value]
  if _RIVAL.value == 'transformers':
    result = run_transformers(questions, _TOKENS.value)
  else:
    result = run_engine(questions, _TOKENS.value, _SLOTS.value)
  print(json.dumps(result))


if __name__ == '__main__':
  app.run(main)
