# SPDX-License-Identifier: Apache-2.0
"""What a reader of a corpus yields: utterances, and those that cannot be used."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio, tfds_example


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
  # Start and length in seconds, where the utterance is a part of the recording.
  stretch: tuple[float, float] | None = None
  # Number, samples per second and encoding, where the file is a shard of TFDS.
  example: tuple[int, int, str] | None = None

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """The audio, 16 kHz and mono; AudioError says what is wrong with it."""
    path = self.audio_filepath
    if self.example:
      return tfds_example.read_audio(path, *self.example, limits=limits)
    return audio.read(path, limits=limits, span=self.span, stretch=self.stretch)


@dataclasses.dataclass(frozen=True)
class BadUtterance:
  """One to skip and count: `field` is what the count is by, `reason` a sentence."""

  id: str
  field: str
  reason: str


Item = Utterance | BadUtterance


def from_json(entry: dict[str, Any]) -> Item:
  """The item whose `vars` were written as JSON: tuples as lists, a path as a string."""
  if 'reason' in entry:
    return BadUtterance(**entry)
  values: dict[str, Any] = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in entry.items()
  }
  values['audio_filepath'] = pathlib.Path(values['audio_filepath'])
  return Utterance(**values)


def inside(folder: pathlib.Path, name: str | pathlib.Path) -> pathlib.Path:
  """The file `name` of a resolved `folder`; ValueError if it lies elsewhere."""
  try:
    path = (folder / name).resolve()
  except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, link to itself
    raise ValueError(f'is not a path ({error})') from None
  if not path.is_relative_to(folder):  # by .., an absolute path or a symbolic link
    raise ValueError(f'is outside of the folder {folder}')
  return path
