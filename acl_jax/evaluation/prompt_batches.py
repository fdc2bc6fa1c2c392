# SPDX-License-Identifier: Apache-2.0
"""Batch prompts with responses into few shapes: few compilations, little padding."""

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
LENGTH_MULTIPLE = 16  # positions of a row
AUDIO_MULTIPLE = 8  # positions for an audio clip
RESPONSE_MULTIPLE = 32  # response tokens


class PromptCase(NamedTuple):
  """A prompt with at most one audio clip (embeddings), and the response to score."""

  prompt: Sequence[Segment]
  clip: Float[np.ndarray, 'n e'] | None = None
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


def num_audio_positions(case: PromptCase) -> int:
  """Number of positions reserved for the clip of a case."""
  return round_up(0 if case.clip is None else len(case.clip), AUDIO_MULTIPLE)


def row_length(case: PromptCase) -> int:
  """Number of positions for prompt and response, except the last response token."""
  texts = (len(segment) for segment in case.prompt if not isinstance(segment, int))
  clips = sum(isinstance(segment, int) for segment in case.prompt)
  return sum(texts) + clips * num_audio_positions(case) + max(0, len(case.response) - 1)


def batch_cases(
  cases: Sequence[PromptCase], width: int, tokens: int, max_rows: int
) -> Iterator[tuple[list[int], PromptBatch]]:
  """Batch cases of similar length, longest first.

  Args:
    cases: Prompts with responses of at least one token.
    width: Size of an embedding.
    tokens: Limit for rows times length. A single longer case forms its own batch; a
      batch with clips of different lengths may exceed the limit slightly.
    max_rows: Limit for rows.

  Yields:
    The indices of the cases and their arrays.
  """
  remaining = sorted(
    range(len(cases)), key=lambda i: (row_length(cases[i]), i), reverse=True
  )
  while remaining:
    length = round_up(row_length(cases[remaining[0]]), LENGTH_MULTIPLE)
    rows = max(1, min(max_rows, tokens // length))
    indices, remaining = remaining[:rows], remaining[rows:]
    yield indices, layout_batch([cases[i] for i in indices], rows, width)


def layout_batch(cases: Sequence[PromptCase], rows: int, width: int) -> PromptBatch:
  """Lay out up to `rows` cases of embedding size `width`, padding every dimension."""
  num_audio = max(map(num_audio_positions, cases))
  layouts = [layout_prompt(case.prompt, [range(num_audio)]) for case in cases]
  tokens = [
    [*layout.tokens, *case.response[:-1]]
    for layout, case in zip(layouts, cases, strict=True)
  ]
  audio_index = [layout.audio_index for layout in layouts]
  length = round_up(max(map(len, tokens)), LENGTH_MULTIPLE)
  shape = (rows, length)
  lengths = np.zeros((rows, 1), np.int32)
  lengths[: len(cases), 0] = [len(row) for row in tokens]
  segment_ids = (np.arange(length) < lengths).astype(np.int32)
  audio = np.zeros((rows, num_audio, width), np.float32)
  audio_mask = np.zeros((rows, num_audio), bool)
  for row, case in enumerate(cases):
    if case.clip is not None:
      audio[row, : len(case.clip)] = case.clip
      audio_mask[row, : len(case.clip)] = True
  responses = [case.response for case in cases]
  num_targets = round_up(max(map(len, responses)), RESPONSE_MULTIPLE)
  starts = np.zeros((rows, 1), np.int32)
  starts[: len(cases), 0] = [len(layout.tokens) - 1 for layout in layouts]
  # Positions after the response are arbitrary: their results are discarded.
  target_positions = np.minimum(
    starts + np.arange(num_targets, dtype=np.int32), length - 1
  )
  return PromptBatch(
    prompt=Prompt(
      tokens=jnp.asarray(pad(tokens, shape, 0, np.int32)),
      audio_index=jnp.asarray(pad(audio_index, shape, NO_AUDIO, np.int32)),
      segment_ids=jnp.asarray(segment_ids),
    ),
    audio=jnp.asarray(audio),
    audio_mask=jnp.asarray(audio_mask),
    targets=jnp.asarray(pad(responses, (rows, num_targets), 0, np.int32)),
    target_positions=jnp.asarray(target_positions),
  )
