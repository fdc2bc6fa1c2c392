# SPDX-License-Identifier: Apache-2.0
"""Utterances, usable or not, as corpus readers yield them."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float32

from data_pipeline import audio, parquet, tfds_example


@dataclasses.dataclass(frozen=True)
class Utterance:
  """Where the audio of an utterance is, and its transcript."""

  id: str
  audio_filepath: pathlib.Path
  text: str
  speaker: str | None = None
  lang: str | None = None
  response: str | None = None  # the chat model's response to `text`, if known
  # Offset and size in bytes, if the audio is only a part of the file.
  span: tuple[int, int] | None = None
  # Start and length in seconds, if the utterance is only a part of the audio.
  stretch: tuple[float, float] | None = None
  # Number, samples per second and encoding, if the file is a TFDS shard.
  example: tuple[int, int, str] | None = None
  # Row group, row in it and column of audio, if the file is Parquet.
  row: tuple[int, int, str] | None = None
  # Instead of an id made of a path without its suffix, if another utterance has that.
  alternative_id: str | None = dataclasses.field(default=None, compare=False)

  def read(self, limits: audio.Limits) -> Float32[np.ndarray, 'samples']:
    """Read the audio as 16 kHz mono; AudioError if it cannot be used."""
    path = self.audio_filepath
    if self.example:
      return tfds_example.read_audio(path, *self.example, limits=limits)
    if self.row:
      return self._read_row(*self.row, limits=limits)
    return audio.read(path, limits=limits, span=self.span, stretch=self.stretch)

  def _read_row(
    self, group: int, number: int, column: str, limits: audio.Limits
  ) -> Float32[np.ndarray, 'samples']:
    try:
      cell = parquet.read_cell(self.audio_filepath, group, number, column)
    except ValueError as error:  # the file may have changed
      raise audio.AudioError(self.id, 'audio', f'cannot be read ({error})') from None
    match cell:
      case {'bytes': bytes(content)}:
        return audio.read(content, limits=limits, name=self.id)
      case {'path': str(name)}:
        folder = self.audio_filepath.parent.resolve()
      case None:
        raise audio.AudioError(self.id, 'audio', 'is null')
      case _:
        raise audio.AudioError(self.id, 'audio', 'has neither bytes nor a path')
    try:
      path = resolve_inside(folder, name)
    except ValueError as error:
      raise audio.AudioError(self.id, 'audio', f'path {error}') from None
    return audio.read(path, limits=limits)


@dataclasses.dataclass(frozen=True)
class BadUtterance:
  """An utterance that is skipped; `field` is counted by, `reason` is the message."""

  id: str
  field: str
  reason: str


AnyUtterance = Utterance | BadUtterance


def from_json(entry: dict[str, Any]) -> AnyUtterance:
  """Return the utterance whose `vars` are JSON: tuples as lists, paths as strings."""
  if 'reason' in entry:
    return BadUtterance(**entry)
  values: dict[str, Any] = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in entry.items()
  }
  values['audio_filepath'] = pathlib.Path(values['audio_filepath'])
  return Utterance(**values)


def resolve_inside(
  folder: pathlib.Path, name: str | pathlib.Path, follow_links: bool = False
) -> pathlib.Path:
  """Return the path of file `name`; ValueError if it is outside a resolved `folder`.

  follow_links: whether it may be, or be in, a link to somewhere else.
  """
  try:
    named = pathlib.Path(os.path.normpath(folder / name))
    path = (folder / name).resolve()
    if path.is_symlink():  # Python 3.13 does not raise RuntimeError
      raise ValueError(f'a link to itself: {path}')
  except (OSError, ValueError, RuntimeError) as error:  # too long, NUL, link to itself
    raise ValueError(f'is not a valid path ({error})') from None
  checked = named if follow_links else path
  if not checked.is_relative_to(folder):  # by .., an absolute path or a symbolic link
    raise ValueError(f'is outside the folder {folder}')
  return path


def check_contained(utterance: AnyUtterance, root: pathlib.Path) -> AnyUtterance:
  """Return an utterance, or a bad one if its audio is outside a resolved folder."""
  if isinstance(utterance, BadUtterance):
    return utterance
  try:
    resolve_inside(root, utterance.audio_filepath.absolute())
  except ValueError as error:
    reason = f'{utterance.audio_filepath}: file {error}'
    return BadUtterance(utterance.id, 'file', reason)
  return utterance
