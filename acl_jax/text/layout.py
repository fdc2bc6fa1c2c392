# SPDX-License-Identifier: Apache-2.0
"""Prompts as segments of text and audio, and their layout in a row of tokens."""

from collections.abc import Sequence
from typing import NamedTuple

Segment = tuple[int, ...] | int  # token ids, or the index of an audio clip
NO_AUDIO = -1  # the audio index of a position that holds a token


class PromptLayout(NamedTuple):
  """Arrays of one prompt; see `acl_jax.models.speech_llm.Prompt`."""

  tokens: list[int]
  audio_index: list[int]


def layout_prompt(
  prompt: Sequence[Segment], clips: Sequence[Sequence[int]]
) -> PromptLayout:
  """Lay out the tokens and the audio positions of a prompt.

  clips: for each clip, the indices of its embeddings within the row.
  """
  tokens: list[int] = []
  audio_index: list[int] = []
  for segment in prompt:
    if isinstance(segment, int):
      tokens += [0] * len(clips[segment])
      audio_index += clips[segment]
    else:
      tokens += segment
      audio_index += [NO_AUDIO] * len(segment)
  return PromptLayout(tokens, audio_index)
