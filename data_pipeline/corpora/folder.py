# SPDX-License-Identifier: Apache-2.0
"""A plain folder: `x.flac` (any of `audio.SUFFIXES`) beside `x.txt`, at any depth."""

import pathlib
from collections.abc import Iterator

from data_pipeline.audio import is_named_as_audio
from data_pipeline.corpora import text_files
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)
from data_pipeline.corpora.walk import walk


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances by name; the id is the path in the folder without its suffix.

  contained: links that leave the folder are refused.
  """
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  root = path.resolve()
  for audio in walk(root, contained):
    if not is_named_as_audio(audio):
      continue
    relative = audio.relative_to(root)
    name = relative.with_suffix('').as_posix()
    transcript = audio.with_suffix('.txt')
    try:
      resolved = resolve_inside(root, audio, not contained)
      content = resolve_inside(root, transcript, not contained).read_bytes()
    except FileNotFoundError:
      yield BadUtterance(
        name, 'text', f'{audio}: text is missing: no {transcript.name}'
      )
      continue
    except (OSError, ValueError) as error:
      yield BadUtterance(name, 'file', f'{audio}: file {error}')
      continue
    try:
      text = ' '.join(text_files.decode(content).split())
      yield Utterance(name, resolved, text, alternative_id=relative.as_posix())
    except ValueError as error:
      yield BadUtterance(name, 'text', f'{transcript}: text {error}')
