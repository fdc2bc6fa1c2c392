# SPDX-License-Identifier: Apache-2.0
"""Answers to prompts: greedy text, and the likelihoods of given continuations.

All prompts, of whatever task and arm, are answered in one stream; equal ones once. Each
result is stored as soon as it is there, so that an interrupted run resumes.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.continuations import score_continuations
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.responses import generate_responses
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.fingerprint import fingerprint


class AnswerRequest(NamedTuple):
  """A prompt to answer; see `Case`. continuations: token ids, at least one each."""

  prompt: PromptCase
  max_new_tokens: int
  continuations: tuple[tuple[int, ...], ...] = ()


class AnswerResult(NamedTuple):
  """Greedy text, stripped, and the log-likelihoods of the continuations in nats."""

  text: str
  log_likelihoods: tuple[float, ...]


def answer_requests(
  model: SpeechLLM,
  text: TextFrontend,
  requests: Sequence[AnswerRequest],
  cache: ResultCache,
) -> list[AnswerResult]:
  """Answer requests, in their order.

  cache: of this LLM, keyed by a fingerprint of prompt and settings.
  """
  stop_ids = text.tokenizer.stop_ids
  prompts = [_digest(request.prompt) for request in requests]
  text_keys, likelihood_keys = {}, {}
  for index, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
    if request.max_new_tokens:
      text_keys[index] = _key('text', prompt, request.max_new_tokens, stop_ids)
    if request.continuations:
      likelihood_keys[index] = _key('likelihood', prompt, request.continuations)

  new = _first_of_each(text_keys, cache)
  with progress('answer', len(new)) as advance:
    responses = generate_responses(
      model,
      [requests[i].prompt for i in new],
      max_new_tokens=[requests[i].max_new_tokens for i in new],
      stop_ids=stop_ids,
    )
    for index, response in responses:
      cache[text_keys[new[index]]] = response
      advance(1)

  new = _first_of_each(likelihood_keys, cache)
  with progress('likelihoods', len(new)) as advance:
    scores = score_continuations(
      model,
      [requests[i].prompt for i in new],
      [requests[i].continuations for i in new],
    )
    for index, log_likelihoods in scores:
      cache[likelihood_keys[new[index]]] = log_likelihoods
      advance(1)

  return [
    AnswerResult(
      _decode(text, cache[text_keys[i]]) if i in text_keys else '',
      tuple(cache[likelihood_keys[i]]) if i in likelihood_keys else (),
    )
    for i in range(len(requests))
  ]


def _decode(text: TextFrontend, response: Sequence[int]) -> str:
  return text.tokenizer.decode(response).strip()


def _first_of_each(keys: dict[int, str], cache: ResultCache) -> list[int]:
  """Return the first index of every key that is not in the cache."""
  first: dict[str, int] = {}
  for index, key in keys.items():
    if key not in cache:
      first.setdefault(key, index)
  return [*first.values()]


def _digest(prompt: PromptCase) -> str:
  """Return a fingerprint of what the LLM reads."""
  clips = [
    part
    for clip in prompt.clips
    for part in (f'{clip.shape}'.encode(), np.ascontiguousarray(clip).tobytes())
  ]
  return fingerprint([json.dumps(prompt.prompt).encode(), *clips])


def _key(*parts) -> str:
  return fingerprint([json.dumps(parts).encode()])
