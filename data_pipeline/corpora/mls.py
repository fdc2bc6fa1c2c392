# SPDX-License-Identifier: Apache-2.0
"""Multilingual LibriSpeech, extracted: `mls_german/train/transcripts.txt` and audio.

The path is one split or the folder of several. The audio of the line
`speaker_book_segment<tab>text` is `audio/speaker/book/speaker_book_segment.flac`, or
`.opus` in the compressed edition.
"""

import os
import pathlib
import re
from collections.abc import Iterator

from data_pipeline.corpora import text_files
from data_pipeline.corpora.utterance import (
  AnyUtterance,
  BadUtterance,
  Utterance,
  check_contained,
  resolve_inside,
)

_ID = re.compile(rb'([0-9]{1,20})_([0-9]{1,20})_[0-9]{1,20}')
_FOLDER = re.compile(r'mls_([a-z]+)(_opus)?')
_LANGUAGES = {
  'english': 'en',
  'german': 'de',
  'dutch': 'nl',
  'french': 'fr',
  'spanish': 'es',
  'italian': 'it',
  'portuguese': 'pt',
  'polish': 'pl',
}


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances by split, in the order of the lines, reading them lazily.

  contained: ValueError for a split that is a link to somewhere else.
  """
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  files = [path / 'transcripts.txt']
  if not files[0].is_file():
    files = sorted(path.glob('*/transcripts.txt'))
  for transcripts in files:
    if not contained:
      yield from _read_split(transcripts)
      continue
    root = path.resolve()
    try:
      resolve_inside(root, transcripts.resolve())
    except ValueError as error:
      raise ValueError(f'{transcripts}: {error}, which --contained forbids') from None
    yield from (check_contained(each, root) for each in _read_split(transcripts))


def _read_split(transcripts: pathlib.Path) -> Iterator[AnyUtterance]:
  lang, suffix = _language_of_split(transcripts.parent), None
  for number, line in enumerate(text_files.read_lines(transcripts), 1):
    if not line.strip():
      continue
    utterance = _parse_line(transcripts, number, line, lang)
    if isinstance(utterance, Utterance):
      # All files of a split have one suffix, so look only until a file exists.
      suffix = suffix or _find_suffix(utterance.audio_filepath)
      audio = pathlib.Path(f'{utterance.audio_filepath}{suffix or ".flac"}')
      utterance = Utterance(
        utterance.id, audio, utterance.text, utterance.speaker, lang
      )
    yield utterance


def _parse_line(
  transcripts: pathlib.Path, number: int, line: bytes, lang: str | None
) -> AnyUtterance:
  """Parse a line; the path of the audio lacks its suffix."""
  name, _, text = line.strip().partition(b'\t')
  split, location = transcripts.parent, f'{transcripts} line {number}'
  if not (match := _ID.fullmatch(name)):
    name = f'{split.name}/{transcripts.name}:{number}'
    return BadUtterance(name, 'id', f'{location}: id is not speaker_book_segment')
  name, speaker, book = (part.decode() for part in (name, match[1], match[2]))
  try:
    text = text.decode().strip()
  except UnicodeDecodeError:
    return BadUtterance(name, 'text', f'{location}: text is not UTF-8')
  audio = pathlib.Path(f'{split}/audio/{speaker}/{book}/{name}')  # faster than `/`
  return Utterance(name, audio, text, speaker, lang)


def _find_suffix(audio: pathlib.Path) -> str | None:
  """Return the suffix of an audio file that exists; None if there is none."""
  suffixes = ('.flac', '.opus')
  return next((s for s in suffixes if os.path.exists(audio.with_suffix(s))), None)


def _language_of_split(split: pathlib.Path) -> str | None:
  """Return the language in the name of the parent folder, `mls_LANGUAGE`, if any."""
  folder = pathlib.Path(os.path.abspath(split)).parent.name
  match = _FOLDER.fullmatch(folder)
  return _LANGUAGES.get(match[1]) if match else None
