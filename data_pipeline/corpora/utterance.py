# SPDX-License-Identifier: Apache-2.0
"""What a reader of a corpus yields: utterances, and those that cannot be used."""

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio


@dataclasses.dataclass(frozen=True)
class Utterance:
  """A recording and what is said in it."""

  id: str
  audio_filepath: pathlib.Path
  text: str
  speaker: str | None = None
  lang: str | None = None
  response: str | None = None  # the chat model's answer to `text`, where it is known
  # Offset and size in bytes, where the recording is a part of the file.
  span: tuple[int, int] | None = None

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """The audio: 16 kHz, mono; AudioError says what is wrong with it."""
    return audio.read(self.audio_filepath, limits=limits, span=self.span)


@dataclasses.dataclass(frozen=True)
class Stretch(Utterance):
  """An utterance that is said somewhere in a longer recording; times in seconds."""

  start: float = 0.0
  seconds: float = 0.0

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """The audio of the stretch alone."""
    return audio.read(
      self.audio_filepath,
      limits=limits,
      span=self.span,
      stretch=(self.start, self.seconds),
    )


@dataclasses.dataclass(frozen=True)
class BadUtterance:
  """One to skip and count: `field` is what the count is by, `reason` a sentence."""

  id: str
  field: str
  reason: str


Item = Utterance | BadUtterance


def inside(folder: pathlib.Path, name: str | pathlib.Path) -> pathlib.Path:
  """The file `name` of a resolved `folder`; ValueError if it lies elsewhere."""
  try:
    path = (folder / name).resolve()
  except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, link to itself
    raise ValueError(f'is not a path ({error})') from None
  if not path.is_relative_to(folder):  # by .., an absolute path or a symbolic link
    raise ValueError(f'is outside of the folder {folder}')
  return path
