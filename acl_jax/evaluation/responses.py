# SPDX-License-Identifier: Apache-2.0
"""The LLM's greedy answers: to transcripts, as the reference, and to recordings."""

import json
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.rows import Case, layout_rows, row_length
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.targets.prompting import common_prefix_length
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline.corpora.utterance import Utterance

MAX_SLOTS = 32  # every step reads all weights, however many slots there are


def generate_responses(
  model: SpeechLLM,
  cases: Sequence[Case],
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:
  """Number and response of every case, as they get done; the stop token included."""
  if not cases:
    return
  start = common_prefix_length([_opening(case) for case in cases])
  prefix = _opening(cases[0])[:start]
  config = EngineConfig(
    slots=min(MAX_SLOTS, len(cases)),
    prompt_length=max(map(row_length, cases)) - start,
    max_new_tokens=max_new_tokens,
    rules=DecodeRules(stop_ids),
  )
  asked = (
    Request(str(number), _embed(model, case, start))
    for number, case in enumerate(cases)
  )
  for response in Engine(model.llama, config, prefix=prefix).run(asked):
    yield int(response.request.id), tuple(response.tokens.tolist())


def _opening(case: Case) -> tuple[int, ...]:
  """The text that a prompt begins with."""
  first = case.prompt[0]
  return () if isinstance(first, int) else first


def _embed(model: SpeechLLM, case: Case, start: int):
  """A prompt from `start` on: its tokens or, if there is audio in it, embeddings."""
  if len(case.prompt) == 1 and case.clip is None:
    return _opening(case)[start:]
  rows = layout_rows([case], 1, model.llama.config.hidden_size)
  x, ids = _splice(model, rows)
  return np.asarray(x[0][ids[0] > 0][start:])


_splice = jax.jit(
  lambda model, rows: model.splice(rows.prompt, rows.audio, rows.audio_mask)
)


def given_response(text: TextFrontend, response: str) -> tuple[int, ...]:
  """A response that somebody wrote, as the LLM would have said it."""
  if not response.strip():
    raise ValueError('response is empty')
  return (*text.tokenizer.encode(response.strip()), text.tokenizer.eos_id)


def reference_responses(
  model: SpeechLLM,
  text: TextFrontend,
  utterances: Sequence[Utterance],
  max_new_tokens: int,
  cache: ResultCache,
  advance: Callable[[int], None],
) -> list[tuple[int, ...]]:
  """The response to each transcript: the manifest's, or else the LLM's own.

  cache: this LLM's answers, by prompt.
  """
  responses: dict[int, tuple[int, ...]] = {}
  asked: list[tuple[int, str, Case]] = []
  for number, utterance in enumerate(utterances):
    if utterance.response is not None:
      responses[number] = given_response(text, utterance.response)
      continue
    prompt = text.prompt(utterance.text)
    question = [prompt, max_new_tokens, text.tokenizer.stop_ids]
    key = fingerprint([json.dumps(question).encode()])
    if key in cache:
      responses[number] = tuple(cache[key])
    else:
      asked.append((number, key, Case(prompt)))
  advance(len(responses))
  made = generate_responses(
    model,
    [case for _, _, case in asked],
    max_new_tokens=max_new_tokens,
    stop_ids=text.tokenizer.stop_ids,
  )
  for place, response in made:
    number, key, _ = asked[place]
    responses[number] = cache[key] = response
    advance(1)
  return [responses[number] for number in range(len(utterances))]
