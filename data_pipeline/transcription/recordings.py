# SPDX-License-Identifier: Apache-2.0
"""Audio without transcripts: the files of a folder, or the lines of a manifest."""

import hashlib
import json
import pathlib
from collections.abc import Iterator

from data_pipeline.audio import is_named_as_audio
from data_pipeline.corpora import manifest, reject_duplicates
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)
from data_pipeline.corpora.walk import walk


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances without text; ids are unique.

  path: a folder with audio at any depth, or a manifest, whose texts are passed over.
  contained: refuse audio outside of the folder, to which links and paths lead.
  """
  if path.is_dir():
    return reject_duplicates(_list_folder(path.resolve(), contained))
  if not path.is_file():
    raise FileNotFoundError(f'{path}: is no folder and no manifest')
  folder = path.parent.resolve()
  lines = manifest.read_lines(
    path, lambda entry: manifest.from_entry(entry | {'text': ''}, folder, contained)
  )
  return reject_duplicates(lines)


def _list_folder(root: pathlib.Path, contained: bool) -> Iterator[AnyUtterance]:
  for path in filter(is_named_as_audio, walk(root, contained)):
    relative = path.relative_to(root)
    id = relative.with_suffix('').as_posix()
    try:
      audio = resolve_inside(root, path, not contained)
    except ValueError as error:
      yield BadUtterance(id, 'file', f'{path}: file {error}')
      continue
    yield Utterance(id, audio, '', alternative_id=relative.as_posix())


def fingerprint(utterance: Utterance) -> str:
  """Hash what is transcribed: the file with its size and date, and the part of it."""
  path = utterance.audio_filepath
  content = [str(path), utterance.stretch, utterance.lang]
  try:
    status = path.stat()
    content += [status.st_size, status.st_mtime_ns]
  except OSError:  # reported when it is read
    pass
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
