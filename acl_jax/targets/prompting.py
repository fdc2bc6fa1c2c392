# SPDX-License-Identifier: Apache-2.0
"""From transcripts to prompts, and by the batch engine to their responses."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from acl_jax.generation.engine import Engine, EngineConfig, Request, Response
from acl_jax.generation.sampling import Sampling
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.llama import Llama
from acl_jax.targets.filters import flag
from acl_jax.targets.store import Target
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.instructions import (
  PLAIN,
  WeightedInstructions,
  check_instructions,
  choose_instruction,
  fill_text,
)
from acl_jax.weights.fingerprint import fingerprint

PROBES = ('a', 'Q', '7', '"', ' ', '\n', 'é')  # what a transcript may begin with


@dataclasses.dataclass(frozen=True)
class TargetsConfig:
  """How to decode: `config.targets` and `config.seed`.

  sampling: as `Sampling` has it. refusals: what a response begins with that does not
  answer. repeats: an n-gram that often in a row ends a response, 0 for never.
  cache_dtype: of keys and values, as `Rules` has it.
  """

  max_prompt_tokens: int  # of the template's and the transcript's together
  max_new_tokens: int
  batch_size: int  # slots of the engine
  seed: int
  top_k: int = 0  # how many of the likeliest tokens to keep at each step
  sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  repeats: int = 0
  refusals: Sequence[str] = ()
  instructions: WeightedInstructions = ((PLAIN, 1.0),)  # what to ask of transcripts
  cache_dtype: str = ''

  def __post_init__(self):
    least = dict(
      max_prompt_tokens=1, max_new_tokens=1, batch_size=1, top_k=0, repeats=0
    )
    for name, limit in least.items():
      if not getattr(self, name) >= limit:
        raise ValueError(
          f'targets.{name} is {getattr(self, name)}, should be at least {limit}'
        )
    check_instructions(self.instructions)
    self.rules(())

  def rules(self, stop_ids: tuple[int, ...]) -> DecodeRules:
    """What the engine obeys."""
    sampling = Sampling(**self.sampling)
    return DecodeRules(
      *(stop_ids, sampling),
      top=self.top_k,
      repeats=self.repeats,
      cache_dtype=self.cache_dtype,
    )

  def describe(self) -> dict[str, Any]:
    """What decides the responses, for JSON: all but the batch size."""
    decides = {key: value for key, value in vars(self).items() if key != 'batch_size'}
    return decides | {
      'sampling': dataclasses.asdict(Sampling(**self.sampling)),
      'refusals': list(self.refusals),
      'instructions': [list(pair) for pair in self.instructions],
    }


@dataclasses.dataclass(frozen=True)
class TargetPrompt:
  """A transcript to answer, what is wanted of it, and the prompt that asks for that."""

  id: str
  text: str
  instruction: str
  prompt: tuple[int, ...]


class TargetDecoder:
  """The LLM, ready to answer transcripts.

  Its shapes follow from the config, so that the response to a transcript depends on
  that alone: a sampled one on the seed and its id too.
  """

  def __init__(self, llama: Llama, text: TextFrontend, decoding: TargetsConfig):
    self.text, self.decoding = text, decoding
    context = llama.config.max_position_embeddings
    if decoding.max_prompt_tokens + decoding.max_new_tokens > context:
      raise ValueError(
        f'targets.max_prompt_tokens is {decoding.max_prompt_tokens} and'
        f' targets.max_new_tokens {decoding.max_new_tokens}; the LLM reads {context}'
      )
    asked = [instruction for instruction, _ in decoding.instructions]
    probes = [self._tokens(fill_text(what, x)) for what in asked for x in PROBES]
    self.prefix = probes[0][: common_prefix_length(probes)]
    if len(self.prefix) >= decoding.max_prompt_tokens:
      raise ValueError(
        f'targets.max_prompt_tokens is {decoding.max_prompt_tokens}; the template alone'
        f' has {len(self.prefix)}'
      )
    config = EngineConfig(
      slots=decoding.batch_size,
      prompt_length=decoding.max_prompt_tokens - len(self.prefix),
      max_new_tokens=decoding.max_new_tokens,
      rules=decoding.rules(text.tokenizer.stop_ids),
    )
    self.engine = Engine(llama, config, prefix=self.prefix, seed=decoding.seed)

  def _tokens(self, words: str) -> tuple[int, ...]:
    [prompt] = self.text.prompt(words)
    assert isinstance(prompt, tuple)  # without audio it is one segment
    return prompt

  def example(self, id: str, transcript: str) -> TargetPrompt:
    """The prompt for a transcript; ValueError if there can be none."""
    if not transcript.strip():
      raise ValueError('text is empty')
    instruction = choose_instruction(self.decoding.instructions, id, self.decoding.seed)
    prompt = self._tokens(fill_text(instruction, transcript))
    if len(prompt) > (limit := self.decoding.max_prompt_tokens):
      raise ValueError(f'text makes a prompt of {len(prompt)} tokens, limit {limit}')
    if len(prompt) == len(self.prefix) or prompt[: len(self.prefix)] != self.prefix:
      raise ValueError('text runs into the template when it is cut into tokens')
    return TargetPrompt(id, transcript, instruction, prompt)

  def __call__(
    self, examples: Iterable[TargetPrompt], advance: Callable[[int], None]
  ) -> Iterator[Target]:
    """The targets of the examples, in their order.

    advance: told of every response, how many tokens it has.
    """
    waiting: dict[str, TargetPrompt] = {}

    def requests() -> Iterator[Request]:
      for example in examples:
        waiting[example.id] = example
        yield Request(
          id=example.id,
          prompt=example.prompt[len(self.prefix) :],
          seed=zlib.crc32(example.id.encode()),
        )

    made: dict[str, Response] = {}
    for response in self.engine.run(requests()):
      made[response.request.id] = response
      advance(len(response.tokens))
      while waiting and (first := next(iter(waiting))) in made:
        yield self._target(waiting.pop(first), made.pop(first))

  def _target(self, example: TargetPrompt, response: Response) -> Target:
    text = self.text.tokenizer.decode(response.tokens)
    prompt = np.array(example.prompt, '<i4').tobytes()
    header = {
      'id': example.id,
      'transcript': example.text,
      'instruction': example.instruction,
      'prompt_fingerprint': fingerprint([prompt])[:16],
      'finish_reason': response.finish_reason,
      'flag': flag(text, response.finish_reason, self.decoding.refusals),
      'text': text,
    }
    arrays = {'response': response.tokens, 'log_probs': response.log_probs}
    if response.top_ids.shape[1]:
      arrays['top_ids'] = response.top_ids
      arrays['top_log_probs'] = response.top_log_probs.astype(np.float16)
    asked = [instruction for instruction, _ in self.decoding.instructions]
    return Target(header, arrays, asked.index(example.instruction))


def common_prefix_length(prompts: Sequence[tuple[int, ...]]) -> int:
  """How many tokens all prompts begin with; of each at least one is left."""
  first, last = min(prompts), max(prompts)
  alike = len(os.path.commonprefix([first, last]))
  return max(0, min(alike, min(map(len, prompts)) - 1))
