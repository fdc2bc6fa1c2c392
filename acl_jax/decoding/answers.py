# SPDX-License-Identifier: Apache-2.0
"""From prompts to the records of their responses, batch by batch."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acl_jax.decoding.generate import Generated, generate
from acl_jax.decoding.targets import fingerprint
from acl_jax.models.llama import Llama
from acl_jax.text.instructions import PLAIN, Weighed, check
from acl_jax.text.tokenizer import Tokenizer
from data_pipeline.batches import round_up
from data_pipeline.container import pack

LENGTH_STEP = 16  # prompts are padded to multiples: few lengths, few compilations


@dataclasses.dataclass(frozen=True)
class Decoding:
  """How to decode: `config.targets` and `config.seed`."""

  max_new_tokens: int
  batch_size: int
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


def answer(
  llama: Llama,
  tokenizer: Tokenizer,
  examples: Sequence[Example],
  decoding: Decoding,
  advance: Callable[[int, int], None],
) -> Iterator[bytes]:
  """The records of the examples, in their order.

  Prompts of like length share a batch. A sampled response depends on the seed and the
  id of its example. advance: told the examples and the tokens of every batch.
  """
  answers = {}
  by_length = sorted(examples, key=lambda example: len(example.prompt))
  for start in range(0, len(by_length), decoding.batch_size):
    batch = by_length[start : start + decoding.batch_size]
    generated = _generate(llama, batch, tokenizer.stop_ids, decoding)
    for row, example in enumerate(batch):
      answers[example.id] = _record(tokenizer, example, generated, row)
    advance(len(batch), int(generated.lengths[: len(batch)].sum()))
  return (answers[example.id] for example in examples)


def _generate(
  llama: Llama, batch: Sequence[Example], stop_ids: tuple[int, ...], decoding: Decoding
) -> Generated:
  """Decodes one batch; the shapes take few values, whatever its prompts."""
  # The last prompt again in the rows that are left: they end when it does.
  batch = [*batch, *[batch[-1]] * (decoding.batch_size - len(batch))]
  longest = max(len(example.prompt) for example in batch)
  length = min(round_up(longest, LENGTH_STEP), decoding.room(llama))
  tokens = np.zeros((len(batch), length), np.int32)
  valid = np.zeros((len(batch), length), bool)
  for row, example in enumerate(batch):
    tokens[row, : len(example.prompt)] = example.prompt
    valid[row, : len(example.prompt)] = True
  numbers = np.array([zlib.crc32(example.id.encode()) for example in batch], np.uint32)
  root = jax.random.key(decoding.seed)
  generated = generate(
    llama,
    llama.embed(jnp.asarray(tokens)),
    jnp.asarray(valid),
    jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(numbers)),
    max_new_tokens=decoding.max_new_tokens,
    stop_ids=stop_ids,
    temperature=decoding.temperature,
    top_k=decoding.top_k,
  )
  return jax.device_get(generated)


def _record(
  tokenizer: Tokenizer, example: Example, generated: Generated, row: int
) -> bytes:
  length = int(generated.lengths[row])
  response = np.asarray(generated.tokens)[row, :length]
  prompt = np.array(example.prompt, '<i4').tobytes()
  header = {
    'id': example.id,
    'transcript': example.text,
    'instruction': example.instruction,
    'prompt_fingerprint': fingerprint([prompt])[:16],
    'finish_reason': 'stop' if response[-1] in tokenizer.stop_ids else 'length',
    'text': tokenizer.decode(response),
  }
  log_probs = np.asarray(generated.log_probs)[row, :length]
  arrays = {'response': response, 'log_probs': log_probs}
  if generated.top_ids.shape[2]:
    top_log_probs = np.asarray(generated.top_log_probs)[row, :length]
    arrays['top_ids'] = np.asarray(generated.top_ids)[row, :length]
    arrays['top_log_probs'] = top_log_probs.astype(np.float16)
  return pack(header, arrays)
