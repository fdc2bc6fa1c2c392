# SPDX-License-Identifier: Apache-2.0
"""Weighted instructions: what a user may ask about an utterance, written or spoken.

In an instruction `{}` stands for the transcript, or for audio instead of it. `{}`
alone is the plain prompt of the paper. Other instructions teach the model to treat
audio like text: the frozen LLM summarised the transcript, so it must summarise audio.
"""

import hashlib
from collections.abc import Sequence

from acl_jax.text.templates import Audio

PLACEHOLDER = '{}'  # alone it is the plain prompt

WeightedInstructions = Sequence[tuple[str, float]]  # instructions and their weights


def check_instructions(instructions: WeightedInstructions) -> None:
  """Raise ValueError unless each has exactly one `{}` and a weight above 0."""
  if not instructions:
    raise ValueError(
      f'targets.instructions is empty; {PLACEHOLDER!r} is the plain prompt'
    )
  for instruction, weight in instructions:
    if instruction.count(PLACEHOLDER) != 1:
      raise ValueError(
        f'targets.instructions: {instruction!r} contains {PLACEHOLDER!r}'
        f' {instruction.count(PLACEHOLDER)} times; it must contain it once, where the'
        ' transcript goes'
      )
    if not weight > 0:
      raise ValueError(
        f'targets.instructions: the weight of {instruction!r} is {weight}; it must be'
        ' above 0'
      )


def choose_instruction(instructions: WeightedInstructions, id: str, seed: int) -> str:
  """Draw the instruction of an utterance by weight; depends on (seed, id) alone."""
  digest = hashlib.sha256(f'{seed}/{id}'.encode()).digest()
  uniform = int.from_bytes(digest[:8], 'big') / 2**64
  remaining = uniform * sum(weight for _, weight in instructions)
  for instruction, weight in instructions:
    remaining -= weight
    if remaining < 0:
      return instruction
  return instructions[-1][0]  # reached by rounding only


def fill_text(instruction: str, transcript: str) -> str:
  """Return the content of a user turn that quotes the transcript."""
  return instruction.replace(PLACEHOLDER, transcript)


def fill_audio(instruction: str, audio: Audio) -> tuple[str | Audio, ...]:
  """Return the content of a user turn with audio in place of the transcript."""
  before, after = instruction.split(PLACEHOLDER)
  return tuple(part for part in (before, audio, after) if part != '')
