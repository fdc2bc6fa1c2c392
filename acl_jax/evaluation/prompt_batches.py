# SPDX-License-Identifier: Apache-2.0
"""Prompts with responses as rows of few shapes: few compilations, little padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from acl_jax.models.speech_llm import Prompt
from acl_jax.runtime.rounding import round_up
from acl_jax.text.layout import NO_AUDIO, Segment, layout_prompt
from data_pipeline.batches import pad

LENGTH_STEP = 16  # a row's length is a multiple of it
SLOT_STEP = 8  # and so is the number of places for an audio clip
RESPONSE_STEP = 32


class Case(NamedTuple):
  """A prompt with at most one audio clip, as embeddings, and the response to score."""

  prompt: Sequence[Segment]
  clip: Float[np.ndarray, 'n e'] | None = None
  response: tuple[int, ...] = ()


class Rows(NamedTuple):
  """Cases as arrays, one a row; rows that are left over are empty.

  index: the position in the row whose hidden state predicts each target.
  """

  prompt: Prompt
  audio: Float[Array, 'b s e']
  audio_mask: Bool[Array, 'b s']
  targets: Int[Array, 'b u']
  index: Int[Array, 'b u']


def num_audio_positions(case: Case) -> int:
  """How many places the audio of a case takes in a row."""
  return round_up(0 if case.clip is None else len(case.clip), SLOT_STEP)


def row_length(case: Case) -> int:
  """How long a row the case needs."""
  texts = (len(segment) for segment in case.prompt if not isinstance(segment, int))
  clips = sum(isinstance(segment, int) for segment in case.prompt)
  return sum(texts) + clips * num_audio_positions(case) + max(0, len(case.response) - 1)


def make_batches(
  cases: Sequence[Case], width: int, tokens: int, max_rows: int
) -> Iterator[tuple[list[int], Rows]]:
  """Cases of like size together, as their numbers and their rows.

  width: of an embedding. tokens: what a batch may hold, rows times length, unless a
  single case is longer. (A little more, if short and long clips meet in a batch.)
  """
  left = sorted(
    range(len(cases)), key=lambda i: (row_length(cases[i]), i), reverse=True
  )
  while left:
    longest = round_up(row_length(cases[left[0]]), LENGTH_STEP)
    rows = max(1, min(max_rows, tokens // longest))
    yield left[:rows], layout_rows([cases[i] for i in left[:rows]], rows, width)
    left = left[rows:]


def layout_rows(cases: Sequence[Case], rows: int, width: int) -> Rows:
  """The arrays of some cases, the shapes rounded up."""
  slots = max(map(num_audio_positions, cases))
  laid = [layout_prompt(case.prompt, [range(slots)]) for case in cases]
  tokens = [
    [*row.tokens, *case.response[:-1]] for row, case in zip(laid, cases, strict=True)
  ]
  length = round_up(max(map(len, tokens)), LENGTH_STEP)
  shape = (rows, length)
  lengths = np.asarray([len(row) for row in tokens] + [0] * (rows - len(cases)))
  audio = np.zeros((rows, slots, width), np.float32)
  audio_mask = np.zeros((rows, slots), bool)
  for number, case in enumerate(cases):
    if case.clip is not None:
      audio[number, : len(case.clip)] = case.clip
      audio_mask[number, : len(case.clip)] = True
  responses = [case.response for case in cases]
  most = round_up(max(map(len, responses)), RESPONSE_STEP)
  starts = np.zeros((rows, 1), np.int32)
  starts[: len(cases), 0] = [len(row.tokens) - 1 for row in laid]
  prompt = Prompt(
    tokens=jnp.asarray(pad(tokens, shape, 0, np.int32)),
    audio_index=jnp.asarray(
      pad([row.audio_index for row in laid], shape, NO_AUDIO, np.int32)
    ),
    segment_ids=jnp.asarray((np.arange(length) < lengths[:, None]).astype(np.int32)),
  )
  # Beyond the response the index may be any: nobody reads the result.
  index = np.minimum(starts + np.arange(most, dtype=np.int32), length - 1)
  targets = pad(responses, (rows, most), 0, np.int32)
  arrays = map(jnp.asarray, (audio, audio_mask, targets, index))
  return Rows(prompt, *arrays)
