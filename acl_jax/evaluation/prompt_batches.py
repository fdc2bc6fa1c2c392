# SPDX-License-Identifier: Apache-2.0
"""Batch prompts with responses into few shapes: few compilations, little padding."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.speech_llm import Prompt
from acl_jax.runtime.rounding import round_up
from acl_jax.text.layout import NO_AUDIO, Segment, layout_prompt
from data_pipeline.batches import pad

# Sizes are padded to a multiple of these.
LENGTH_MULTIPLE = 32  # positions of a row; with audio, its embeddings have as many
RESPONSE_MULTIPLE = 32  # response tokens


class PromptCase(NamedTuple):
  """A prompt, the clips (embeddings) that its segments name, the response to score."""

  prompt: Sequence[Segment]
  clips: Sequence[Float[np.ndarray, '_ e']] = ()  # lengths differ
  response: tuple[int, ...] = ()


class PromptBatch(NamedTuple):
  """Arrays of a batch, one case per row; excess rows are padding.

  target_positions: For each target, the position whose hidden state predicts it.
  """

  prompt: Prompt
  audio: Float[Array, 'b s e']
  audio_mask: Bool[Array, 'b s']
  targets: Int[Array, 'b u']
  target_positions: Int[Array, 'b u']


class PromptRows(NamedTuple):
  """Prompts laid out in rows, with other tokens after them.

  last: The position of the last token of each prompt; 0 in padding rows.
  """

  prompt: Prompt
  audio: Float[Array, 'b s e']
  audio_mask: Bool[Array, 'b s']
  last: Int[np.ndarray, ' b']


def prompt_length(case: PromptCase) -> int:
  """Number of positions of the prompt."""
  return sum(
    len(case.clips[segment] if isinstance(segment, int) else segment)
    for segment in case.prompt
  )


def row_length(case: PromptCase) -> int:
  """Number of positions for prompt and response, except the last response token."""
  return prompt_length(case) + max(0, len(case.response) - 1)


def group_rows(
  lengths: Sequence[int], tokens: int, max_rows: int
) -> Iterator[tuple[list[int], int]]:
  """Group rows of similar length, the longest first.

  Args:
    lengths: Number of positions of each row.
    tokens: Limit for rows times length. A single longer row is a group of its own.
    max_rows: Limit for rows.

  Yields:
    The indices of the rows of a group, and the rows that the batch is padded to.
  """
  remaining = sorted(range(len(lengths)), key=lambda i: (lengths[i], i), reverse=True)
  while remaining:
    length = round_up(lengths[remaining[0]], LENGTH_MULTIPLE)
    rows = max(1, min(max_rows, tokens // length))
    indices, remaining = remaining[:rows], remaining[rows:]
    yield indices, rows


def batch_cases(
  cases: Sequence[PromptCase], width: int, tokens: int, max_rows: int
) -> Iterator[tuple[list[int], PromptBatch]]:
  """Batch cases with responses of at least one token; see `group_rows`.

  width: Size of an embedding.

  Yields:
    The indices of the cases and their arrays.
  """
  for indices, rows in group_rows([*map(row_length, cases)], tokens, max_rows):
    yield indices, layout_batch([cases[i] for i in indices], rows, width)


def layout_batch(cases: Sequence[PromptCase], rows: int, width: int) -> PromptBatch:
  """Lay out up to `rows` cases of embedding size `width`, padding every dimension."""
  responses = [case.response for case in cases]
  laid_out = layout_rows(cases, [response[:-1] for response in responses], rows, width)
  num_targets = round_up(max(map(len, responses)), RESPONSE_MULTIPLE)
  # Positions after the response are arbitrary: their results are discarded.
  target_positions = np.minimum(
    laid_out.last[:, None] + np.arange(num_targets, dtype=np.int32),
    laid_out.prompt.tokens.shape[1] - 1,
  )
  return PromptBatch(
    *laid_out[:3],
    targets=jnp.asarray(pad(responses, (rows, num_targets), 0, np.int32)),
    target_positions=jnp.asarray(target_positions),
  )


def layout_rows(
  cases: Sequence[PromptCase], tails: Sequence[Sequence[int]], rows: int, width: int
) -> PromptRows:
  """Lay out the prompts of up to `rows` cases, each with the tokens of its tail.

  The responses of the cases are not laid out. width: Size of an embedding.
  """
  tokens, audio_index, last = [], [], np.zeros(rows, np.int32)
  laid_out = [layout_prompt(case.prompt, _place_clips(case)) for case in cases]
  length = max(
    len(layout.tokens) + len(tail) for layout, tail in zip(laid_out, tails, strict=True)
  )
  length = round_up(length, LENGTH_MULTIPLE)
  num_audio = length if any(case.clips for case in cases) else 1
  audio = np.zeros((rows, num_audio, width), np.float32)
  audio_mask = np.zeros((rows, num_audio), bool)
  for row, (case, layout, tail) in enumerate(zip(cases, laid_out, tails, strict=True)):
    tokens.append([*layout.tokens, *tail])
    audio_index.append(layout.audio_index)
    last[row] = len(layout.tokens) - 1
    audio_mask[row, : (count := _num_audio(case))] = True
    if count:
      audio[row, :count] = np.concatenate(case.clips)
  lengths = np.zeros((rows, 1), np.int32)
  lengths[: len(cases), 0] = [*map(len, tokens)]
  segment_ids = (np.arange(length) < lengths).astype(np.int32)
  prompt = Prompt(
    tokens=jnp.asarray(pad(tokens, (rows, length), 0, np.int32)),
    audio_index=jnp.asarray(pad(audio_index, (rows, length), NO_AUDIO, np.int32)),
    segment_ids=jnp.asarray(segment_ids),
  )
  return PromptRows(prompt, jnp.asarray(audio), jnp.asarray(audio_mask), last)


def _num_audio(case: PromptCase) -> int:
  return sum(map(len, case.clips))


def _place_clips(case: PromptCase) -> list[range]:
  """Return where the embeddings of each clip are among those of the row."""
  ends = np.cumsum([0, *map(len, case.clips)]).tolist()
  return [range(start, end) for start, end in itertools.pairwise(ends)]
