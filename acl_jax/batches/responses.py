# SPDX-License-Identifier: Apache-2.0
"""Batches of the response stage: utterances, and prompts with their responses."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.ctc import CTCBatchAssembler
from acl_jax.batches.log_mels import load_packed
from acl_jax.batches.orders import TOO_LONG
from acl_jax.config.sections import DataConfig
from acl_jax.models.speech_llm import Prompt
from acl_jax.runtime.rounding import round_up
from acl_jax.targets.filters import check_flags
from acl_jax.targets.store import Targets
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.instructions import fill_audio
from acl_jax.text.layout import NO_AUDIO, Segment, layout_prompt
from acl_jax.text.templates import Audio
from data_pipeline.batches import BatchPlan, PackedFrames

LENGTH_STEP = 8  # LLM tokens; the length of a row is a multiple
PADDING_LOG_PROB = -30.0  # where the teacher has no token


def split_shared_prefix(
  prompts: Sequence[Sequence[Segment]],
) -> tuple[tuple[int, ...], list[list[Segment]]]:
  """Return the tokens that all prompts start with, and the rest of each prompt."""
  openings = [() if isinstance(first, int) else tuple(first) for first, *_ in prompts]
  prefix = os.path.commonprefix(openings)  # works for any sequences
  rests = []
  for opening, prompt in zip(openings, prompts, strict=True):
    rest = list(prompt[1:] if opening else prompt)
    if len(opening) > len(prefix):
      rest.insert(0, opening[len(prefix) :])
    rests.append(rest)
  return tuple(prefix), rests


def open_targets(
  data: DataConfig, llm: Mapping[str, Any], text: TextFrontend
) -> Targets:
  """Open the targets of a corpus.

  llm: description of the LLM by `fingerprint.describe`.
  ValueError if the targets are of another LLM or template.
  """
  check_flags(data.leave_out)
  targets = Targets(data.targets, data.leave_out)
  targets.check_provenance(llm, text)
  return targets


class ResponseBatchAssembler:
  """Assembles the batches of the response stage.

  ValueError if there is no response to any utterance.

  ctc_batches: assembles the audio. top_k: number of the teacher's likeliest tokens to
  load at each target; 0: none. row_tokens: LLM tokens of a row of packed prompts;
  without it a row has the length of the longest prompt and response.
  """

  def __init__(
    self,
    ctc_batches: CTCBatchAssembler,
    text: TextFrontend,
    targets: Targets,
    top_k: int,
    row_tokens: int | None = None,
  ):
    self.ctc_batches, self.targets, self.top_k = ctc_batches, targets, top_k
    if (stored := targets.provenance['decoding']['top_k']) < top_k:
      raise ValueError(
        f'the targets have the top {stored} tokens; config.targets.top_k is {top_k}.'
        ' Lower it, or run decode_targets again'
      )
    source, instructions = ctc_batches.source, targets.instructions
    rows = targets.find_rows(source.ids, source.id_hashes)
    if not (rows >= 0).any():
      raise ValueError(
        f'{targets.folder}: no response to any of the {len(rows)} utterances in'
        ' config.data.train. Run decode_targets on them'
      )
    self._response_lengths = np.where(rows >= 0, targets.tokens[rows], 0)
    self.instruction = np.where(rows >= 0, targets.instruction[rows], 0)
    self.shared_prefix, rests = split_shared_prefix(
      [text.prompt(fill_audio(instruction, Audio(0))) for instruction in instructions]
    )
    self.prompts = dict(zip(instructions, rests, strict=True))
    self.max_response, self.row_tokens = targets.max_new_tokens, row_tokens
    self.check_embedded = text.tokenizer.check_embedded

  def lengths(self) -> Int[np.ndarray, 'n 2']:
    """Return encoder frames and LLM tokens of each utterance.

    They are `TOO_LONG` for an utterance without a response.
    """
    response_lengths = self._response_lengths
    response = np.maximum(response_lengths - 1, 0)  # the last token is no input
    tokens = self.prompt_lengths() + response
    lengths = np.stack([self.ctc_batches.lengths(), tokens], axis=1)
    return np.where((response_lengths > 0)[:, None], lengths, TOO_LONG)

  def prompt_lengths(self) -> Int[np.ndarray, ' n']:
    """Return the tokens of each utterance's prompt, without the shared prefix."""
    text_lengths = [
      len(layout_prompt(self.prompts[instruction], [()]).tokens)
      for instruction in self.targets.instructions
    ]
    frames = self.ctc_batches.source.lengths
    embeddings = -(-frames // self.ctc_batches.stack)
    return embeddings + np.asarray(text_lengths, np.int32)[self.instruction]

  def fit_context(
    self, lengths: Int[np.ndarray, 'n 2'], limit: int
  ) -> Int[np.ndarray, 'n 2']:
    """Leave out what exceeds the LLM's context with its prompt and response.

    lengths: from the method `lengths`; they become `TOO_LONG`. How many is logged.
    """
    tokens = lengths[:, 1]
    exceeds = (tokens < TOO_LONG) & (len(self.shared_prefix) + tokens > limit)
    if exceeds.any():
      logging.warning(
        '%d of %d utterances are left out: with prompt and response they have up to %d'
        " tokens; the limit of the LLM's context is %d",
        exceeds.sum(),
        len(lengths),
        len(self.shared_prefix) + tokens[exceeds].max(),
        limit,
      )
    return np.where(exceeds[:, None], TOO_LONG, lengths)

  def row_length(self, plan: BatchPlan) -> int:
    """Return the length of a batch's rows, without the shared prefix."""
    if self.row_tokens is not None:
      return self.row_tokens
    clip = range(self.ctc_batches.num_embeddings(plan.max_frames))
    longest = max(
      len(layout_prompt(rest, [clip]).tokens) for rest in self.prompts.values()
    )
    return round_up(longest + self.max_response, LENGTH_STEP)

  def __call__(self, plan: BatchPlan) -> tuple[AudioBatch, ResponseBatch]:
    """Load and assemble a batch, without the utterances that cannot be read."""
    return self.assemble(*load_packed(self.ctc_batches.source, plan))

  def assemble(
    self, plan: BatchPlan, packed: PackedFrames
  ) -> tuple[AudioBatch, ResponseBatch]:
    """Add the prompts and responses to the packed frames of a batch."""
    rows = plan.rows, self.row_length(plan)
    shape = plan.rows, plan.max_per_row, self.max_response
    shared_prefix = np.asarray(self.shared_prefix, np.int32)
    response = empty_batch(rows, shape, self.top_k, shared_prefix)
    num_embeddings = self.ctc_batches.num_embeddings(plan.max_frames)
    for b, row in enumerate(plan.utterances):
      start = 0
      for k, i in enumerate(row):
        start = self._write_prompt(response, b, k, start, i, k * num_embeddings)
    return self.ctc_batches.assemble(plan, packed), response

  def _write_prompt(
    self,
    response: ResponseBatch,
    b: int,
    k: int,
    start: int,
    utterance: int,
    first_embedding: int,
  ) -> int:
    """Write the k-th prompt and response of row b, from `start` on; returns its end.

    first_embedding: index within the row of the utterance's first audio embedding.
    """
    source = self.ctc_batches.source
    target = self.targets.read_response(source.ids[utterance], source.texts[utterance])
    tokens = target['response']
    self.check_embedded(tokens.tolist(), f'the response to {target["id"]!r}')
    num_frames = int(source.lengths[utterance])
    stop_embedding = first_embedding + self.ctc_batches.num_embeddings(num_frames)
    clip = range(first_embedding, stop_embedding)
    layout = layout_prompt(self.prompts[target['instruction']], [clip])
    prompt, prompt_end = response.prompt, start + len(layout.tokens)
    stop = prompt_end + len(tokens) - 1
    prompt.tokens[b, start:stop] = [*layout.tokens, *tokens[:-1]]
    prompt.audio_index[b, start:prompt_end] = layout.audio_index
    prompt.segment_ids[b, start:stop] = k + 1
    r = len(tokens)
    response.targets[b, k, :r] = tokens
    response.index[b, k, :r] = prompt_end - 1 + np.arange(r)
    response.weight[b, k, :r] = 1
    if self.top_k:
      top_ids = target['top_ids'][:, : self.top_k].ravel().tolist()
      self.check_embedded(top_ids, f'the response to {target["id"]!r}')
      response.top_ids[b, k, :r] = target['top_ids'][:, : self.top_k]
      response.top_log_probs[b, k, :r] = target['top_log_probs'][:, : self.top_k]
    return stop


def empty_batch(
  rows: tuple[int, int], shape: tuple[int, int, int], top_k: int, shared_prefix: Any
) -> ResponseBatch:
  """Return a batch without prompts, as arrays to fill in.

  rows: their number and length. shape: that of the targets, [b k r].
  """
  return ResponseBatch(
    shared_prefix=shared_prefix,
    prompt=Prompt(
      tokens=_full(rows, 0, np.int32),
      audio_index=_full(rows, NO_AUDIO, np.int32),
      segment_ids=_full(rows, 0, np.int32),
    ),
    targets=_full(shape, 0, np.int32),
    index=_full(shape, 0, np.int32),
    weight=_full(shape, 0, np.float32),
    top_ids=_full((*shape, top_k), 0, np.int32),
    top_log_probs=_full((*shape, top_k), PADDING_LOG_PROB, np.float16),
  )


def _full(shape: tuple[int, ...], fill: int | float, dtype: Any) -> Any:
  """`np.full` as Any, because the fields of a batch are typed as arrays on a device."""
  return np.full(shape, fill, dtype)
