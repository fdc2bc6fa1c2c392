# SPDX-License-Identifier: Apache-2.0
"""From utterances to examples: encoding, the cascade, reference responses."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser, transcribe_utterances
from acl_jax.evaluation.encoding import encode_utterances
from acl_jax.evaluation.examples import Example, check_context_length
from acl_jax.evaluation.responses import generate_reference_responses
from acl_jax.hearing.hearing import Hearing
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import BadUtterance, Utterance

EMPTY_CLIP = np.zeros((0, 1), np.float32)


def prepare_examples(
  model: SpeechLLM,
  text: TextFrontend,
  decode: Callable[[list[int]], str] | None,
  utterances: Sequence[Utterance],
  recogniser: Recogniser | None,
  cache: Path,
  max_new_tokens: int,
  hearing: Hearing | None = None,
) -> tuple[list[Example], list[BadUtterance]]:
  """Encode and transcribe utterances.

  Args:
    model: Encodes the audio.
    text: Tokenizes the prompts, to check their lengths.
    decode: Converts the token ids of `model.greedy` to text; None without CTC.
    utterances: Their ids must be unique.
    recogniser: The cascade's; None to leave the cascade out.
    cache: Folder of the recogniser's transcripts.
    max_new_tokens: Positions that every prompt must leave for the response.
    hearing: See `encode_utterances`.

  Returns:
    Examples without reference responses, and the utterances to skip, with reasons.
  """
  with progress('encode', len(utterances)) as advance:
    encoded, bad = encode_utterances(model, decode, utterances, advance, hearing)
  utterances = [utterance for utterance in utterances if utterance.id in encoded]
  cascade_transcripts: list[str | None] = [None] * len(utterances)
  if recogniser is not None:
    transcript_cache = ResultCache(cache / f'cascade-{recogniser.sha256[:16]}.jsonl')
    with progress('cascade', len(utterances)) as advance:
      cascade_transcripts = [
        *transcribe_utterances(recogniser, utterances, transcript_cache, advance)
      ]
  examples = []
  clips = (each.clip for each in encoded.values())
  longest_clip = max(clips, key=len, default=EMPTY_CLIP)
  context = model.llama.config.max_position_embeddings
  for utterance, transcript in zip(utterances, cascade_transcripts, strict=True):
    clip, ctc_transcript, has_speech = encoded[utterance.id]
    example = Example(
      utterance, clip, ctc_transcript, transcript, has_speech=has_speech
    )
    try:
      check_context_length(example, text, longest_clip, context, max_new_tokens)
      examples.append(example)
    except ValueError as error:
      bad.append(BadUtterance(utterance.id, 'text', str(error)))
  return examples, bad


def add_reference_responses(
  model: SpeechLLM,
  text: TextFrontend,
  examples: Sequence[Example],
  max_new_tokens: int,
  cache: Path,
) -> list[Example]:
  """Return the examples with reference responses; `cache` is a file of this LLM's."""
  utterances = [example.utterance for example in examples]
  with progress('respond', len(examples)) as advance:
    responses = generate_reference_responses(
      model, text, utterances, max_new_tokens, ResultCache(cache), advance
    )
  return [
    dataclasses.replace(example, response=response)
    for example, response in zip(examples, responses, strict=True)
  ]
