# SPDX-License-Identifier: Apache-2.0
"""From utterances to examples: hearing them, recognising them, answering them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from acl_jax.evaluation.answers import reference_responses
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser, transcribe
from acl_jax.evaluation.examples import Example, check_context_length
from acl_jax.evaluation.hearing import encode_utterances
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import BadUtterance, Utterance

NOTHING = np.zeros((0, 1), np.float32)  # a clip


def collect_examples(
  model: SpeechLLM,
  text: TextFrontend,
  decode: Callable[[list[int]], str] | None,
  utterances: Sequence[Utterance],
  recogniser: Recogniser | None,
  cache: Path,
  max_new_tokens: int,
) -> tuple[list[Example], list[BadUtterance]]:
  """What the model and the recogniser hear in the recordings, and what to skip."""
  with progress('hear', len(utterances)) as advance:
    heard, bad = encode_utterances(model, decode, utterances, advance)
  utterances = [utterance for utterance in utterances if utterance.id in heard]
  written: list[str | None] = [None] * len(utterances)
  if recogniser is not None:
    known = ResultCache(cache / f'cascade-{recogniser.sha256[:16]}.jsonl')
    with progress('cascade', len(utterances)) as advance:
      written = [*transcribe(recogniser, utterances, known, advance)]
  found = []
  longest = max((clip for clip, _ in heard.values()), key=len, default=NOTHING)
  context = model.llama.config.max_position_embeddings
  for utterance, words in zip(utterances, written, strict=True):
    example = Example(utterance, *heard[utterance.id], words)
    try:
      check_context_length(example, text, longest, context, max_new_tokens)
      found.append(example)
    except ValueError as error:
      bad.append(BadUtterance(utterance.id, 'text', str(error)))
  return found, bad


def answer_transcripts(
  model: SpeechLLM,
  text: TextFrontend,
  found: Sequence[Example],
  max_new_tokens: int,
  cache: Path,
) -> list[Example]:
  """The examples with their reference responses; `cache` is a file of this LLM's."""
  known = ResultCache(cache)
  utterances = [example.utterance for example in found]
  with progress('answer', len(found)) as advance:
    responses = reference_responses(
      model, text, utterances, max_new_tokens, known, advance
    )
  return [
    dataclasses.replace(example, response=response)
    for example, response in zip(found, responses, strict=True)
  ]
