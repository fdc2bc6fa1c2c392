# SPDX-License-Identifier: Apache-2.0
"""The student's answers to audio, and what the teacher predicts at their tokens."""

import functools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.on_policy import (
  Answer,
  Place,
  PromptedBatch,
  ScoredAnswer,
  answer_limits,
  prompt_span,
  target_checksum,
)
from acl_jax.generation.engine import Engine, EngineConfig
from acl_jax.generation.requests import Request
from acl_jax.models.llama import Llama
from acl_jax.models.speech_llm import SpeechLLM, causal_segment_mask
from acl_jax.runtime import preemption
from acl_jax.runtime.rounding import round_up
from acl_jax.sharding.arrays import to_device
from acl_jax.sharding.mesh import batch_parts
from acl_jax.training import step

SCORED_ROWS = 8  # answers that the teacher scores at once
LENGTH_STEP = 64  # tokens; the length of such a row is a multiple

Answers = dict[Place, Answer]  # of one batch


class Student(NamedTuple):
  """The model that answers, and how.

  seed: with step and place, determines what is sampled.
  """

  model: SpeechLLM
  encoder_trains: bool
  engine: EngineConfig
  seed: int


def generate(
  student: Student,
  shared_prefix: Sequence[int],
  batches: Iterable[tuple[int, PromptedBatch]],
  max_tokens: int,
) -> dict[int, Answers]:
  """Return the student's answers by step.

  shared_prefix: of the prompts with audio. batches: steps and their batches.
  max_tokens: limit on the tokens of all answers; batches beyond it, the first one
  excepted, are not answered. Raises `Preempted` if the job is to stop.
  """
  answers: dict[int, Answers] = {}

  def requests() -> Iterator[Request]:
    total = 0
    for number, batch in batches:
      limits = _limit_answers(student, batch)
      total += sum(limits.values())
      if answers and total > max_tokens:
        return
      answers[number] = {}
      for place, prompt in _embed_prompts(student, batch, limits):
        id = '/'.join(map(str, (number, *place)))
        answers[number][place] = Answer(target_checksum(batch.response, place), ())
        yield Request(id, prompt, zlib.crc32(id.encode()), limits[place])

  llama, seed = student.model.llama, student.seed
  engine = Engine(llama, student.engine, shared_prefix=shared_prefix, seed=seed)
  for response in engine.run(requests()):
    preemption.raise_if_requested('generating answers')
    number, *place = map(int, response.request.id.split('/'))
    of_step, key = answers[number], (place[0], place[1])
    of_step[key] = of_step[key]._replace(tokens=tuple(response.tokens.tolist()))
  return answers


def _limit_answers(student: Student, batch: PromptedBatch) -> dict[Place, int]:
  """Return the limits of the answers that also fit after their written prompts."""
  context = student.model.llama.config.max_position_embeddings
  limits = answer_limits(batch.response, student.engine.max_new_tokens)
  limits = {
    place: min(limit, context - len(batch.written[place]))
    for place, limit in limits.items()
  }
  return {place: limit for place, limit in limits.items() if limit > 0}


def _embed_prompts(
  student: Student, batch: PromptedBatch, places: Iterable[Place]
) -> Iterator[tuple[Place, Float[np.ndarray, 't d']]]:
  """Yield the embeddings of the prompts with audio, without the shared prefix."""
  arrays = to_device((batch.audio, batch.response))
  embedded = _embed(student.model, *arrays, encoder_trains=student.encoder_trains)
  embeddings, is_real = map(np.asarray, embedded)
  for place in places:
    span = prompt_span(batch.response, place)
    yield place, embeddings[place[0], span][is_real[place[0], span]]


@functools.partial(jax.jit, static_argnames='encoder_trains')
def _embed(
  model: SpeechLLM, audio: AudioBatch, response: ResponseBatch, encoder_trains: bool
):
  """Return the embeddings of a batch's rows [b t d] and where they are real [b t]."""
  frames = step.encode_batch(model, audio, encoder_trains)
  clips = model.adapt_rows(*frames, len(response.prompt.tokens))
  embeddings, segment_ids = model.splice(response.prompt, *clips)
  return embeddings, segment_ids > 0


def score(
  teacher: Llama,
  written: Mapping[Place, tuple[int, ...]],
  answers: Answers,
  max_new_tokens: int,
  top_k: int,
) -> dict[Place, ScoredAnswer]:
  """Return the answers with the teacher's likeliest tokens after the written prompt.

  The rows of a forward pass are those of one batch alone, so that its scores are the
  same whenever they are computed.
  """
  _, parts = batch_parts(jax.sharding.get_mesh())
  num_rows = round_up(SCORED_ROWS, parts)
  places = sorted(answers.keys() & written.keys())
  scored = {}
  for first in range(0, len(places), num_rows):
    preemption.raise_if_requested('scoring answers')
    group = places[first : first + num_rows]
    rows = [(*written[place], *answers[place].tokens) for place in group]
    length = round_up(max(map(len, rows)), LENGTH_STEP)
    tokens, segment_ids = np.zeros((2, num_rows, length), np.int32)
    index = np.zeros((num_rows, max_new_tokens), np.int32)
    for b, (place, row) in enumerate(zip(group, rows, strict=True)):
      tokens[b, : len(row)], segment_ids[b, : len(row)] = row, 1
      r = len(answers[place].tokens)
      index[b, :r] = len(row) - r - 1 + np.arange(r)
    arrays = to_device((tokens, segment_ids, index))
    top_log_probs, top_ids = map(np.asarray, _find_top_tokens(teacher, *arrays, top_k))
    for b, place in enumerate(group):
      answer, r = answers[place], len(answers[place].tokens)
      top = top_ids[b, :r], top_log_probs[b, :r].astype(np.float16)
      scored[place] = ScoredAnswer(answer, *top)
  return scored


@functools.partial(jax.jit, static_argnames='top_k')
def _find_top_tokens(
  llama: Llama,
  tokens: Int[Array, 'b t'],
  segment_ids: Int[Array, 'b t'],
  index: Int[Array, 'b r'],
  top_k: int,
) -> tuple[Float[Array, 'b r n'], Int[Array, 'b r n']]:
  """Return log-probabilities and ids of the likeliest tokens after the positions."""
  hidden, _ = llama(llama.embed(tokens), *causal_segment_mask(segment_ids))
  hidden = jnp.take_along_axis(hidden, index[..., None], axis=1)
  top_log_probs, top_ids = jax.lax.top_k(
    jax.nn.log_softmax(llama.logits(hidden)), top_k
  )
  return top_log_probs, top_ids
