# SPDX-License-Identifier: Apache-2.0
"""From prompts to the records of their responses, by the batch engine."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from acl_jax.decoding.engine import Engine, EngineConfig, Request, Response
from acl_jax.decoding.sampling import Sampling
from acl_jax.decoding.slots import Rules
from acl_jax.decoding.targets import fingerprint
from acl_jax.models.llama import Llama
from acl_jax.text.instructions import PLAIN, Weighed, check
from acl_jax.text.tokenizer import Tokenizer
from data_pipeline.container import pack


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How to decode: `config.targets` and `config.seed`."""

  max_new_tokens: int
  batch_size: int  # slots of the engine
  temperature: float
  top_k: int  # how many of the likeliest tokens to keep at each step; 0 for none
  seed: int
  instructions: Weighed = ((PLAIN, 1.0),)  # what to ask of transcripts

  def __post_init__(self):
    least = {'max_new_tokens': 1, 'batch_size': 1, 'temperature': 0, 'top_k': 0}
    for name, limit in least.items():
      if not getattr(self, name) >= limit:
        raise ValueError(
          f'targets.{name} is {getattr(self, name)}, should be at least {limit}'
        )
    check(self.instructions)

  def describe(self) -> dict[str, Any]:
    """What decides the responses, for JSON: all but the batch size."""
    described = {k: v for k, v in vars(self).items() if k != 'batch_size'}
    return described | {'instructions': [list(pair) for pair in self.instructions]}

  def room(self, llama: Llama) -> int:
    """The longest prompt that leaves space for the response."""
    return llama.config.max_position_embeddings - self.max_new_tokens


@dataclasses.dataclass(frozen=True)
class Example:
  """A transcript to answer, what is wanted of it, and the prompt that asks for that."""

  id: str
  text: str
  instruction: str
  prompt: tuple[int, ...]


class Answers:
  """The LLM, ready to answer the examples of a corpus or some of them.

  Its shapes follow from all examples, so that the record of one does not depend on
  which others are asked for: a sampled response depends on the seed and its id.
  """

  def __init__(
    self,
    llama: Llama,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    decoding: Decoding,
  ):
    self.tokenizer = tokenizer
    prompts = [example.prompt for example in examples]
    self.start = common_start(prompts)
    config = EngineConfig(
      slots=decoding.batch_size,
      prompt_length=max(map(len, prompts)) - self.start,
      max_new_tokens=decoding.max_new_tokens,
      rules=Rules(
        stop_ids=tokenizer.stop_ids,
        sampling=Sampling(decoding.temperature),
        top=decoding.top_k,
      ),
    )
    prefix = prompts[0][: self.start]
    self.engine = Engine(llama, config, prefix=prefix, seed=decoding.seed)

  def __call__(
    self, examples: Sequence[Example], advance: Callable[[int, int], None]
  ) -> Iterator[bytes]:
    """The records of the examples, in their order.

    advance: told of every response, 1, and how many tokens it has.
    """
    asked = (
      Request(
        id=example.id,
        prompt=example.prompt[self.start :],
        seed=zlib.crc32(example.id.encode()),
      )
      for example in examples
    )
    responses = self.engine.run(asked)
    made: dict[str, Response] = {}
    for example in examples:
      while example.id not in made:
        response = next(responses)
        made[response.request.id] = response
        advance(1, len(response.tokens))
      yield _record(self.tokenizer, example, made.pop(example.id))


def common_start(prompts: Sequence[tuple[int, ...]]) -> int:
  """How many tokens all prompts begin with; of each at least one is left."""
  first, last = min(prompts), max(prompts)
  alike = len(os.path.commonprefix([first, last]))
  return max(0, min(alike, min(map(len, prompts)) - 1))


def _record(tokenizer: Tokenizer, example: Example, response: Response) -> bytes:
  prompt = np.array(example.prompt, '<i4').tobytes()
  header = {
    'id': example.id,
    'transcript': example.text,
    'instruction': example.instruction,
    'prompt_fingerprint': fingerprint([prompt])[:16],
    'finish_reason': response.finish_reason,
    'text': tokenizer.decode(response.tokens),
  }
  arrays = {'response': response.tokens, 'log_probs': response.log_probs}
  if response.top_ids.shape[1]:
    arrays['top_ids'] = response.top_ids
    arrays['top_log_probs'] = response.top_log_probs.astype(np.float16)
  return pack(header, arrays)
