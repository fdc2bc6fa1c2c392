# SPDX-License-Identifier: Apache-2.0
"""What a user may want of a transcript, written or spoken: instructions by weight.

In an instruction `{}` stands for the transcript, and for the recording in its place.
`{}` alone is the plain prompt, the paper's. Others teach that a recording is text like
any other: the frozen LLM summarised the transcript, so summarise the recording.
"""

import hashlib
from collections.abc import Sequence

from acl_jax.text.templates import Audio

PLAIN = '{}'

WeightedInstructions = Sequence[tuple[str, float]]  # instructions and their weights


def check_instructions(instructions: WeightedInstructions) -> None:
  """ValueError if one has not exactly one `{}`, or a weight is not above 0."""
  if not instructions:
    raise ValueError(f'targets.instructions is empty; {PLAIN!r} is the plain prompt')
  for instruction, weight in instructions:
    if instruction.count(PLAIN) != 1:
      raise ValueError(
        f'targets.instructions: {instruction!r} has {instruction.count(PLAIN)} times'
        f' {PLAIN!r}, where the transcript goes; it should have one'
      )
    if not weight > 0:
      raise ValueError(
        f'targets.instructions: the weight of {instruction!r} is {weight}, not above 0'
      )


def choose_instruction(instructions: WeightedInstructions, id: str, seed: int) -> str:
  """The instruction of an example: drawn by weight from (seed, id) alone."""
  digest = hashlib.sha256(f'{seed}/{id}'.encode()).digest()
  drawn = int.from_bytes(digest[:8], 'big') / 2**64
  drawn *= sum(weight for _, weight in instructions)
  for instruction, weight in instructions:
    drawn -= weight
    if drawn < 0:
      return instruction
  return instructions[-1][0]  # rounding


def fill_text(instruction: str, transcript: str) -> str:
  """What the user writes."""
  return instruction.replace(PLAIN, transcript)


def fill_audio(instruction: str, audio: Audio) -> tuple[str | Audio, ...]:
  """What the user writes and says."""
  before, after = instruction.split(PLAIN)
  return tuple(part for part in (before, audio, after) if part != '')
