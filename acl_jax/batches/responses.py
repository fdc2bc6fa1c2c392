# SPDX-License-Identifier: Apache-2.0
"""The response stage's batches: recordings, and prompts with their responses."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.ctc import CTCBatches
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.models.speech_llm import Prompt
from acl_jax.runtime.rounding import round_up
from acl_jax.targets.store import Targets
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.instructions import fill_audio
from acl_jax.text.layout import NO_AUDIO, Segment, layout_prompt
from acl_jax.text.templates import Audio
from data_pipeline.batches import BatchPlan

LENGTH_STEP = 8  # a row's length is a multiple of it
PADDING_LOG_PROB = -30.0  # log-probability of what the teacher does not name


def split_shared_prefix(
  prompts: Sequence[Sequence[Segment]],
) -> tuple[tuple[int, ...], list[list[Segment]]]:
  """The tokens that all prompts begin with, and the rest of each."""
  openings = [() if isinstance(first, int) else tuple(first) for first, *_ in prompts]
  prefix = os.path.commonprefix(openings)  # of any sequences, paths or not
  rests = []
  for opening, prompt in zip(openings, prompts, strict=True):
    left = opening[len(prefix) :]
    rests.append([*([left] if left else []), *prompt[len(opening) > 0 :]])
  return tuple(prefix), rests


class ResponseBatches:
  """Assembles the response stage's batches: recordings, prompts and their responses.

  top_k: how many of the teacher's likeliest tokens to read at each target; 0 is none.
  row_tokens: of a row of packed prompts; without it a row is as long as it must be.
  """

  def __init__(
    self,
    sounds: CTCBatches,
    text: TextFrontend,
    targets: Targets,
    top_k: int,
    row_tokens: int | None = None,
  ):
    self.sounds, self.targets, self.top_k = sounds, targets, top_k
    if (stored := targets.provenance['decoding']['top_k']) < top_k:
      raise ValueError(f'the targets hold {stored} tokens of the teacher, not {top_k}')
    asked = targets.instructions
    prompts = [text.prompt(fill_audio(instruction, Audio(0))) for instruction in asked]
    self.prefix, rests = split_shared_prefix(prompts)
    self.prompts = dict(zip(asked, rests, strict=True))
    self.max_response, self.row_tokens = targets.max_new_tokens, row_tokens

  def lengths(self) -> Int[np.ndarray, 'n 2']:
    """Encoder frames and LLM tokens of every recording; `NO_PLACE` without response."""
    source, frames = self.sounds.source, self.sounds.lengths()
    said, asked = self.targets.lengths(source.ids)
    written = {
      key: len(layout_prompt(rest, [()]).tokens) for key, rest in self.prompts.items()
    }
    text = np.asarray([written[instruction] for instruction in asked])
    tokens = -(-source.lengths // self.sounds.stack) + text + np.maximum(said - 1, 0)
    lengths = np.stack([frames, tokens], axis=1)
    return np.where((said > 0)[:, None], lengths, TOO_LONG)

  def row_length(self, batch: BatchPlan) -> int:
    """The positions of a batch's rows; the prefix is in no row."""
    if self.row_tokens is not None:
      return self.row_tokens
    slots = range(self.sounds.slots(batch.longest))
    longest = max(
      len(layout_prompt(rest, [slots]).tokens) for rest in self.prompts.values()
    )
    return round_up(longest + self.max_response, LENGTH_STEP)

  def __call__(self, batch: BatchPlan) -> tuple[AudioBatch, ResponseBatch]:
    batch, laid = load_packed(self.sounds.source, batch)
    shape = batch.rows, self.row_length(batch)
    said = batch.rows, batch.per_row, self.max_response
    prompt = Prompt._make(np.full(shape, fill, np.int32) for fill in (0, NO_AUDIO, 0))
    response = ResponseBatch._make(
      (
        np.asarray(self.prefix, np.int32),
        prompt,
        np.zeros(said, np.int32),
        np.zeros(said, np.int32),
        np.zeros(said, np.float32),
        np.zeros((*said, self.top_k), np.int32),
        np.full((*said, self.top_k), PADDING_LOG_PROB, np.float16),
      )
    )
    slots = self.sounds.slots(batch.longest)
    for b, row in enumerate(batch.utterances):
      start = 0
      for k, i in enumerate(row):
        start = self._lay_out(response, (b, k), start, i, slots)
    return self.sounds.sound(batch, laid), response

  def _lay_out(
    self, response: ResponseBatch, at: tuple[int, int], start: int, i: int, slots: int
  ) -> int:
    """Writes recording i's prompt and response from `start` of a row; returns its end.

    at: the row, and which of its recordings. slots: of a recording at most.
    """
    (b, k), source = at, self.sounds.source
    target = self.targets.read(source.ids[i], source.texts[i])
    answer = target['response']
    first = k * slots
    clip = range(first, first + self.sounds.slots(int(source.lengths[i])))
    row = layout_prompt(self.prompts[target['instruction']], [clip])
    stop = start + len(row.tokens) + len(answer) - 1
    tokens, place, segment_ids = response.prompt
    tokens[b, start:stop] = [*row.tokens, *answer[:-1]]
    place[b, start : start + len(row.tokens)] = row.audio_index
    segment_ids[b, start:stop] = k + 1
    u = len(answer)
    response.targets[b, k, :u] = answer
    response.index[b, k, :u] = start + len(row.tokens) - 1 + np.arange(u)
    response.weight[b, k, :u] = 1
    if self.top_k:
      response.top_ids[b, k, :u] = target['top_ids'][:, : self.top_k]
      response.top_log_probs[b, k, :u] = target['top_log_probs'][:, : self.top_k]
    return stop
