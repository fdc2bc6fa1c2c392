# SPDX-License-Identifier: Apache-2.0
"""A plain folder: `x.flac` (`.wav`, `.ogg`, `.mp3`) beside `x.txt`, at any depth."""

import pathlib
from collections.abc import Iterator

from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

SUFFIXES = {'.flac', '.wav', '.ogg', '.mp3'}


def read(path: pathlib.Path) -> Iterator[AnyUtterance]:
  """Yield utterances by name; the id is the path in the folder without its suffix."""
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  root = path.resolve()
  for audio in sorted(root.rglob('*')):
    if audio.suffix.lower() not in SUFFIXES:
      continue
    name = audio.relative_to(root).with_suffix('').as_posix()
    transcript = audio.with_suffix('.txt')
    try:
      text = resolve_inside(root, transcript).read_text(encoding='utf-8')
      yield Utterance(name, resolve_inside(root, audio), ' '.join(text.split()))
    except FileNotFoundError:
      yield BadUtterance(
        name, 'text', f'{audio}: text is missing: no {transcript.name}'
      )
    except UnicodeDecodeError:
      yield BadUtterance(name, 'text', f'{transcript}: text is not UTF-8')
    except (OSError, ValueError) as error:
      yield BadUtterance(name, 'file', f'{audio}: file {error}')
