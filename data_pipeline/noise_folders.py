# SPDX-License-Identifier: Apache-2.0
"""Recorded noise of the user: folders of audio files, of which excerpts are read."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float32

from data_pipeline import audio
from data_pipeline.audio import SAMPLE_RATE, SUFFIXES, AudioError, is_named_as_audio
from data_pipeline.corpora.walk import walk

LIMITS = audio.Limits(encoded_bytes=64 << 20, seconds=3_600.0)  # of a noise file
MAX_FILES = 1_000_000  # of all folders, whose paths are in memory
CHECKED = 20  # files of a folder, of which one must be readable
TRIES = 4  # files for an excerpt, until one is readable


class NoiseFolders:
  """The audio files at any depth of some folders.

  ValueError if a folder is missing, or has no audio file that can be read.
  """

  def __init__(self, folders: Sequence[str | Path]):
    self._files: list[Path] = []
    self._unreadable: set[Path] = set()
    for folder in map(Path, folders):
      files = _list_audio(folder)
      _check_readable(folder, files)
      self._files += files
      if len(self._files) > MAX_FILES:
        raise ValueError(
          f'{folder}: the noise folders have more than {MAX_FILES} audio files'
        )

  def draw(
    self, length: int, rng: np.random.Generator
  ) -> Float32[np.ndarray, '_'] | None:
    """Return up to `length` samples of a random file, from a random place.

    None if several files in succession cannot be read; each is logged once.
    """
    for number in rng.integers(len(self._files), size=TRIES):
      path, position = self._files[number], rng.random()
      try:
        return audio.read_excerpt(path, length / SAMPLE_RATE, position, LIMITS)
      except AudioError as error:
        if path not in self._unreadable:
          self._unreadable.add(path)
          logging.warning('%s; this noise is left out', error)
    return None


def _list_audio(folder: Path) -> list[Path]:
  """Return the audio files in an order that is the same on every machine."""
  if not folder.is_dir():
    raise ValueError(f'{folder}: noise_folders names it, but it is not a folder')
  found = filter(is_named_as_audio, walk(folder))
  files = list(itertools.islice(found, MAX_FILES + 1))  # one more, to detect more
  if not files:
    raise ValueError(
      f'{folder}: this noise folder has no audio files ({", ".join(SUFFIXES)})'
    )
  return files


def _check_readable(folder: Path, files: Sequence[Path]) -> None:
  """Raise ValueError if none of the first `CHECKED` files can be read."""
  errors = []
  for path in files[:CHECKED]:
    try:
      audio.read_excerpt(path, 0.1, 0.0, LIMITS)
      return
    except AudioError as error:
      errors.append(error)
  raise ValueError(
    f'{folder}: none of the first {len(errors)} audio files of this noise folder can be'
    f' read. The first error: {errors[0]}'
  )
