# SPDX-License-Identifier: Apache-2.0
"""VCTK 0.92: `wav48_silence_trimmed/p225/p225_001_mic1.flac`, `txt/p225/p225_001.txt`.

The path is the folder of both. Only the first of the two microphones is read.
"""

import pathlib
import re
from collections.abc import Iterator

from data_pipeline.corpora import text_files
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  resolve_inside,
)

AUDIO_FOLDER = 'wav48_silence_trimmed'
MAX_TRANSCRIPT_BYTES = 10_000
_AUDIO = re.compile(r'(([a-z]\d+)_\d+)_mic1\.flac')


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances by speaker and number; p315, published without text, is bad.

  contained: links that leave the folder are refused.
  """
  folder = path / AUDIO_FOLDER
  if not folder.is_dir():
    raise NotADirectoryError(f'{path}: has no folder {AUDIO_FOLDER}')
  root = path.resolve()
  for audio in sorted(folder.glob('*/*_mic1.flac')):
    if match := _AUDIO.fullmatch(audio.name):
      yield _read_utterance(root, audio.relative_to(path), match, not contained)


def _read_utterance(
  root: pathlib.Path, audio: pathlib.Path, match: re.Match[str], follow_links: bool
) -> AnyUtterance:
  id, speaker = match.groups()
  transcript = pathlib.Path('txt', speaker, f'{id}.txt')
  try:
    resolved = resolve_inside(root, audio, follow_links)
    with resolve_inside(root, transcript, follow_links).open('rb') as file:
      content = file.read(MAX_TRANSCRIPT_BYTES + 1)
  except FileNotFoundError:
    return BadUtterance(id, 'text', f'{audio}: text is missing: no {transcript}')
  except (OSError, ValueError) as error:
    return BadUtterance(id, 'file', f'{audio}: file {error}')
  if len(content) > MAX_TRANSCRIPT_BYTES:
    problem = f'text has over {MAX_TRANSCRIPT_BYTES} bytes'
    return BadUtterance(id, 'text', f'{transcript}: {problem}')
  try:
    text = text_files.decode(content)
  except ValueError as error:
    return BadUtterance(id, 'text', f'{transcript}: text {error}')
  return Utterance(id, resolved, ' '.join(text.split()), speaker=speaker, lang='en')
