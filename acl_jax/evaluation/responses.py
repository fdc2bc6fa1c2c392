# SPDX-License-Identifier: Apache-2.0
"""Greedy responses of the LLM, to transcripts (the references) and to audio."""

import collections
import json
from collections.abc import Callable, Iterator, Sequence

import jax

from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.prompt_batches import PromptCase, layout_rows, prompt_length
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.targets.prompting import common_prefix_length
from acl_jax.text.frontend import TextFrontend
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline.corpora.text_files import is_blank
from data_pipeline.corpora.utterance import Utterance

MAX_SLOTS = 32  # a decode step reads all weights, whatever the number of slots
CACHED_POSITIONS = 1 << 14  # of all slots of an engine: fewer slots for long prompts
SHORT = 512  # positions: no engine has a shorter limit


def generate_responses(
  model: SpeechLLM,
  cases: Sequence[PromptCase],
  *,
  max_new_tokens: int | Sequence[int],
  stop_ids: tuple[int, ...],
) -> Iterator[tuple[int, tuple[int, ...]]]:
  """Generate the response to every case, with continuous batching.

  Cases that need caches of similar length share an engine, so that a few long prompts
  do not lengthen the caches of all.

  max_new_tokens: of all cases, or of each.

  Yields:
    The index of a case and its response, stop token included, in order of completion.
  """
  if not cases:
    return
  if isinstance(max_new_tokens, int):
    max_new_tokens = [max_new_tokens] * len(cases)
  prefix_length = common_prefix_length([_leading_text(case) for case in cases])
  groups = collections.defaultdict(list)
  for index, (case, limit) in enumerate(zip(cases, max_new_tokens, strict=True)):
    groups[_cache_class(prompt_length(case) + limit)].append(index)
  for length, indices in sorted(groups.items(), reverse=True):
    # The longest responses first, so that no slot is idle at the end; then those of
    # one kind and similar length, which are prefilled together.
    indices.sort(
      key=lambda index: (
        -max_new_tokens[index],
        not cases[index].clips,
        -prompt_length(cases[index]),
      )
    )
    config = EngineConfig(
      slots=min(MAX_SLOTS, CACHED_POSITIONS // length or 1, len(indices)),
      prompt_length=max(prompt_length(cases[i]) for i in indices) - prefix_length,
      max_new_tokens=max(max_new_tokens[i] for i in indices),
      rules=DecodeRules(stop_ids),
    )
    requests = (
      Request(
        str(index),
        _engine_prompt(model, cases[index], prefix_length),
        max_new_tokens=max_new_tokens[index],
      )
      for index in indices
    )
    shared_prefix = _leading_text(cases[0])[:prefix_length]
    engine = Engine(model.llama, config, shared_prefix=shared_prefix)
    for response in engine.run(requests):
      yield int(response.request.id), tuple(response.tokens.tolist())


def _cache_class(length: int) -> int:
  """Return a power of two, at least `SHORT`, that is no less than a length."""
  return max(SHORT, 1 << (length - 1).bit_length())


def _leading_text(case: PromptCase) -> tuple[int, ...]:
  """Token ids before the first audio clip of the prompt."""
  first = case.prompt[0]
  return () if isinstance(first, int) else first


def _engine_prompt(model: SpeechLLM, case: PromptCase, prefix_length: int):
  """The prompt after the shared prefix: token ids or, with audio, embeddings."""
  if len(case.prompt) == 1 and not case.clips:
    return _leading_text(case)[prefix_length:]
  rows = layout_rows([case], [()], 1, model.llama.config.hidden_size)
  spliced = _splice(model, rows.prompt, rows.audio, rows.audio_mask)
  # On the host: on a device every length would be compiled.
  embeddings, segment_ids = jax.device_get(spliced)
  return embeddings[0][segment_ids[0] > 0][prefix_length:]


_splice = jax.jit(lambda model, *rows: model.splice(*rows))


def encode_response(text: TextFrontend, response: str) -> tuple[int, ...]:
  """Tokenize a given response and append the end token; ValueError if it is blank."""
  if is_blank(response):
    raise ValueError('response is empty')
  return (*text.tokenizer.encode(response.strip()), text.tokenizer.eos_id)


def generate_reference_responses(
  model: SpeechLLM,
  text: TextFrontend,
  utterances: Sequence[Utterance],
  max_new_tokens: int,
  cache: ResultCache,
  advance: Callable[[int], None],
) -> list[tuple[int, ...]]:
  """Return the response to each transcript: the manifest's if given, or the LLM's.

  Args:
    model: Its LLM generates the responses, greedily.
    text: The LLM's tokenizer and chat template.
    utterances: Their order is that of the result.
    max_new_tokens: Limit for the generated responses, not for given ones.
    cache: This LLM's responses, keyed by a fingerprint of prompt and settings.
    advance: Called with the number of responses that became available.
  """
  responses: dict[int, tuple[int, ...]] = {}
  pending: list[tuple[int, str, PromptCase]] = []
  for index, utterance in enumerate(utterances):
    if utterance.response is not None:
      responses[index] = encode_response(text, utterance.response)
      continue
    prompt = text.prompt(utterance.text)
    settings = [prompt, max_new_tokens, text.tokenizer.stop_ids]
    key = fingerprint([json.dumps(settings).encode()])
    if key in cache:
      responses[index] = tuple(cache[key])
    else:
      pending.append((index, key, PromptCase(prompt)))
  advance(len(responses))
  generated = generate_responses(
    model,
    [case for _, _, case in pending],
    max_new_tokens=max_new_tokens,
    stop_ids=text.tokenizer.stop_ids,
  )
  for pending_index, response in generated:
    index, key, _ = pending[pending_index]
    responses[index] = cache[key] = response
    advance(1)
  return [responses[index] for index in range(len(utterances))]
