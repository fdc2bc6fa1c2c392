# SPDX-License-Identifier: Apache-2.0
"""Prompts for transcripts, and their responses from the batch engine."""

import dataclasses
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from acl_jax.config.stages import TargetsConfig
from acl_jax.generation.engine import Engine, EngineConfig, Request, Response
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.llama import Llama
from acl_jax.targets.filters import flag_response
from acl_jax.targets.store import Target
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.instructions import choose_instruction, fill_text
from acl_jax.weights.fingerprint import fingerprint
from data_pipeline.corpora.text_files import is_blank

PROBES = ('a', 'Q', '7', '"', ' ', '\n', 'é')  # possible beginnings of a transcript


@dataclasses.dataclass(frozen=True)
class Decoding:
  """What determines the responses: `config.targets` and `config.seed`."""

  config: TargetsConfig
  seed: int

  def rules(self, stop_ids: tuple[int, ...]) -> DecodeRules:
    """Return the rules of the engine."""
    return DecodeRules(
      stop_ids,
      self.config.sampling,
      num_top_tokens=self.config.top_k,
      repeats=self.config.repeats,
      cache_dtype=self.config.cache_dtype,
    )

  def describe(self) -> dict[str, Any]:
    """Return everything that determines the responses; batch size does not."""
    described = dataclasses.asdict(self.config) | {'seed': self.seed}
    del described['batch_size']
    return json.loads(json.dumps(described))


@dataclasses.dataclass(frozen=True)
class TargetPrompt:
  """An utterance's transcript, its instruction, and the prompt made of both."""

  id: str
  transcript: str
  instruction: str
  prompt: tuple[int, ...]


class TargetDecoder:
  """Builds prompts for transcripts and decodes the LLM's responses.

  Shapes follow from the config alone, so a response depends on its transcript alone or,
  if sampled, also on the seed and the utterance's id.
  """

  def __init__(self, llama: Llama, text: TextFrontend, decoding: Decoding):
    self.text, self.decoding, config = text, decoding, decoding.config
    context = llama.config.max_position_embeddings
    if config.max_prompt_tokens + config.max_new_tokens > context:
      raise ValueError(
        f'config.targets.max_prompt_tokens is {config.max_prompt_tokens} and'
        f' config.targets.max_new_tokens {config.max_new_tokens}; their sum exceeds the'
        f" LLM's context of {context}"
      )
    self.instructions = [instruction for instruction, _ in config.instructions]
    probes = [
      self._tokenize(fill_text(instruction, probe))
      for instruction in self.instructions
      for probe in PROBES
    ]
    self.shared_prefix = probes[0][: common_prefix_length(probes)]
    prefix_length = len(self.shared_prefix)
    if prefix_length >= config.max_prompt_tokens:
      raise ValueError(
        f'config.targets.max_prompt_tokens is {config.max_prompt_tokens}; the template'
        f' alone has {prefix_length} tokens'
      )
    engine_config = EngineConfig(
      slots=config.batch_size,
      prompt_length=config.max_prompt_tokens - prefix_length,
      max_new_tokens=config.max_new_tokens,
      rules=decoding.rules(text.tokenizer.stop_ids),
    )
    self.engine = Engine(
      llama, engine_config, shared_prefix=self.shared_prefix, seed=decoding.seed
    )

  def _tokenize(self, message: str) -> tuple[int, ...]:
    [prompt] = self.text.prompt(message)
    assert isinstance(prompt, tuple)  # without audio it is one segment
    return prompt

  def build_prompt(self, id: str, transcript: str) -> TargetPrompt:
    """Return the prompt for a transcript; ValueError if there is none."""
    if is_blank(transcript):
      raise ValueError('text is empty')
    config, seed = self.decoding.config, self.decoding.seed
    instruction = choose_instruction(config.instructions, id, seed)
    prompt = self._tokenize(fill_text(instruction, transcript))
    if len(prompt) > (limit := config.max_prompt_tokens):
      raise ValueError(f'text makes a prompt of {len(prompt)} tokens; limit {limit}')
    length = len(self.shared_prefix)
    if len(prompt) == length or prompt[:length] != self.shared_prefix:
      raise ValueError('text and the template before it share a token')
    return TargetPrompt(id, transcript, instruction, prompt)

  def decode(
    self, prompts: Iterable[TargetPrompt], advance: Callable[[int], None]
  ) -> Iterator[Target]:
    """Yield the targets of the prompts, in their order.

    advance: called with the length in tokens of every response.
    """
    waiting: dict[str, TargetPrompt] = {}

    def requests() -> Iterator[Request]:
      for prompt in prompts:
        waiting[prompt.id] = prompt
        yield Request(
          id=prompt.id,
          prompt=prompt.prompt[len(self.shared_prefix) :],
          seed=zlib.crc32(prompt.id.encode()),
        )

    responses: dict[str, Response] = {}
    for response in self.engine.run(requests()):
      responses[response.request.id] = response
      advance(len(response.tokens))
      while waiting and (first := next(iter(waiting))) in responses:
        yield self._make_target(waiting.pop(first), responses.pop(first))

  def _make_target(self, prompt: TargetPrompt, response: Response) -> Target:
    text = self.text.tokenizer.decode(response.tokens)
    refusals = self.decoding.config.refusals
    header = {
      'id': prompt.id,
      'transcript': prompt.transcript,
      'instruction': prompt.instruction,
      'prompt_fingerprint': fingerprint([np.array(prompt.prompt, '<i4').tobytes()])[
        :16
      ],
      'finish_reason': response.finish_reason,
      'flag': flag_response(text, response.finish_reason, refusals),
      'text': text,
    }
    arrays = {'response': response.tokens, 'log_probs': response.log_probs}
    if response.top_ids.shape[1]:
      arrays['top_ids'] = response.top_ids
      arrays['top_log_probs'] = response.top_log_probs.astype(np.float16)
    return Target(header, arrays, self.instructions.index(prompt.instruction))


def common_prefix_length(prompts: Sequence[tuple[int, ...]]) -> int:
  """Return the number of leading tokens all prompts share.

  At least one token of each prompt remains.
  """
  first, last = min(prompts), max(prompts)
  shared = len(os.path.commonprefix([first, last]))
  return max(0, min(shared, min(map(len, prompts)) - 1))
