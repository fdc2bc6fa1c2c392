# SPDX-License-Identifier: Apache-2.0
"""The LLM's greedy answers: to transcripts, as the reference, and to recordings."""

import json
from collections.abc import Callable, Iterator, Sequence

import jax

from acl_jax.assembly import Text
from acl_jax.decoding.generate import generate
from acl_jax.decoding.targets import fingerprint
from acl_jax.evaluation.cache import Cache
from acl_jax.evaluation.rows import Case, batches
from acl_jax.models.speech_llm import SpeechLLM
from data_pipeline.corpora.utterance import Utterance

TOKENS_PER_BATCH = 4_096
MAX_ROWS = 32  # every step reads all weights, however many rows there are


def answer(
  model: SpeechLLM,
  cases: Sequence[Case],
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:
  """Number and response of every case, as they get done; the stop token included."""
  width = model.llama.config.hidden_size
  few = 1 << (min(MAX_ROWS, max(1, len(cases))) - 1).bit_length()
  for numbers, rows in batches(cases, width, TOKENS_PER_BATCH, few):
    x, ids = _splice(model, rows)
    made = generate(
      model.llama,
      x,
      ids > 0,
      jax.random.key(0),  # nothing is drawn: greedy
      max_new_tokens=max_new_tokens,
      stop_ids=stop_ids,
    )
    tokens, lengths = jax.device_get((made.tokens, made.lengths))
    for row, number in enumerate(numbers):
      yield number, tuple(tokens[row, : lengths[row]].tolist())


_splice = jax.jit(
  lambda model, rows: model.splice(rows.prompt, rows.audio, rows.audio_valid)
)


def given_response(text: Text, response: str) -> tuple[int, ...]:
  """A response that somebody wrote, as the LLM would have said it."""
  if not response.strip():
    raise ValueError('response is empty')
  return (*text.tokenizer.encode(response.strip()), text.tokenizer.eos_id)


def reference_responses(
  model: SpeechLLM,
  text: Text,
  utterances: Sequence[Utterance],
  max_new_tokens: int,
  cache: Cache,
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
  made = answer(
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
