# SPDX-License-Identifier: Apache-2.0
"""The student's answers as a second set of targets of a batch's prompts."""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.batches.responses import ResponseBatchAssembler, empty_batch
from acl_jax.config.sections import DataConfig
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.instructions import fill_text
from data_pipeline.batches import BatchPlan

Place = tuple[int, int]  # a row of a batch, and the number of an utterance in it


class Answer(NamedTuple):
  """An answer of the student.

  target: checksum of the stored response to the same utterance. tokens: the stop token
  included, if there is one.
  """

  target: int
  tokens: tuple[int, ...]


class ScoredAnswer(NamedTuple):
  """An answer and the teacher's n likeliest tokens at each of its r tokens."""

  answer: Answer
  top_ids: Int[np.ndarray, 'r n']
  top_log_probs: Float[np.ndarray, 'r n']


class PromptedBatch(NamedTuple):
  """A batch and the written prompt of each utterance, token by token."""

  audio: AudioBatch
  response: ResponseBatch
  written: Mapping[Place, tuple[int, ...]]


class PromptedBatchAssembler:
  """Assembles the batches of the response stage with their written prompts."""

  def __init__(self, assembler: ResponseBatchAssembler, text: TextFrontend):
    self.assembler, self.text = assembler, text
    self.shared_prefix = assembler.shared_prefix

  def __call__(self, plan: BatchPlan) -> PromptedBatch:
    """Load and assemble a batch, without the utterances that cannot be read."""
    plan, packed = load_packed(self.assembler.ctc_batches.source, plan)
    written = {
      (b, k): self._write_prompt(i)
      for b, row in enumerate(plan.utterances)
      for k, i in enumerate(row)
    }
    return PromptedBatch(*self.assembler.assemble(plan, packed), written)

  def max_prompt_length(self, data: DataConfig) -> int:
    """Return the tokens of the longest prompt with audio, without the shared prefix."""
    frames, tokens = self.assembler.lengths().T
    limit = TOO_LONG - 1 if data.row_frames is None else self.assembler.row_tokens
    fits = (frames <= data.max_frames) & (tokens <= limit)
    return int(self.assembler.prompt_lengths()[fits].max())

  def _write_prompt(self, utterance: int) -> tuple[int, ...]:
    transcript = self.assembler.ctc_batches.source.texts[utterance]
    number = int(self.assembler.instruction[utterance])
    instruction = self.assembler.targets.instructions[number]
    [prompt] = self.text.prompt(fill_text(instruction, transcript))
    assert isinstance(prompt, tuple)  # without audio it is one segment
    return prompt


def target_checksum(response: ResponseBatch, place: Place) -> int:
  """Return a checksum of the stored response at a place."""
  return zlib.crc32(np.asarray(response.targets[place], np.int32).tobytes())


def prompt_span(response: ResponseBatch, place: Place) -> slice:
  """Return the positions in its row of the prompt at a place."""
  b, k = place
  start = int(np.argmax(response.prompt.segment_ids[b] == k + 1))
  return slice(start, int(response.index[b, k, 0]) + 1)


def answer_limits(response: ResponseBatch, max_new_tokens: int) -> dict[Place, int]:
  """Return how many tokens each answer may have at most, so that its row has space.

  The prompts of a row share its padding equally.
  """
  lengths = np.asarray(response.weight).sum(axis=2).astype(int)
  limits = {}
  for b, row in enumerate(np.asarray(response.prompt.segment_ids)):
    present = np.flatnonzero(lengths[b]).tolist()
    share = int(np.count_nonzero(row == 0)) // max(1, len(present))
    for k in present:
      limits[b, k] = min(max_new_tokens, int(lengths[b, k]) + share)
  return limits


def make_answer_batch(
  response: ResponseBatch,
  answers: Mapping[Place, ScoredAnswer],
  max_new_tokens: int,
  top_k: int,
) -> ResponseBatch:
  """Return the prompts of a batch with the student's answers as their targets.

  An utterance without an answer of its own has no targets.
  """
  rows, length = response.prompt.tokens.shape
  shape = rows, response.weight.shape[1], max_new_tokens
  batch = empty_batch((rows, length), shape, top_k, response.shared_prefix)
  ends = [0] * rows
  for place, scored in sorted(answers.items()):
    # An utterance that could be read only once may have shifted the others.
    if scored.answer.target == target_checksum(response, place):
      ends[place[0]] = _write_answer(batch, response, place, ends[place[0]], scored)
  return batch


def _write_answer(
  batch: ResponseBatch,
  response: ResponseBatch,
  place: Place,
  start: int,
  scored: ScoredAnswer,
) -> int:
  """Write a prompt and its answer, from position `start` on; returns its end."""
  (b, k), span = place, prompt_span(response, place)
  answer, r = scored.answer.tokens, len(scored.answer.tokens)
  prompt: Any = batch.prompt
  end = start + span.stop - span.start
  stop = end + r - 1
  prompt.tokens[b, start:end] = response.prompt.tokens[b, span]
  prompt.tokens[b, end:stop] = answer[:-1]
  prompt.audio_index[b, start:end] = response.prompt.audio_index[b, span]
  prompt.segment_ids[b, start:stop] = k + 1
  arrays: Any = batch
  arrays.targets[b, k, :r] = answer
  arrays.index[b, k, :r] = end - 1 + np.arange(r)
  arrays.weight[b, k, :r] = 1
  arrays.top_ids[b, k, :r] = scored.top_ids
  arrays.top_log_probs[b, k, :r] = scored.top_log_probs
  return stop
