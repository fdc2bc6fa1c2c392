# SPDX-License-Identifier: Apache-2.0
"""Multilingual LibriSpeech as unpacked: `mls_german/train/transcripts.txt` and audio.

The path may be one split or the folder that holds several. The recording of the line
`speaker_book_segment<tab>text` is `audio/speaker/book/speaker_book_segment.flac`, or
`.opus` in the compressed edition.
"""

import os
import pathlib
import re
from collections.abc import Iterator

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance

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


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances by split, in the order of the lines, which are never held together."""
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  one = path / 'transcripts.txt'
  for transcripts in [one] if one.is_file() else sorted(path.glob('*/transcripts.txt')):
    yield from _split(transcripts)


def _split(transcripts: pathlib.Path) -> Iterator[Item]:
  lang, suffix = _language(transcripts.parent), None
  with transcripts.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      item = _utterance(transcripts, number, line, lang)
      if isinstance(item, Utterance):
        # Asked until one is there, not 10 million times: a split has one kind.
        suffix = suffix or _suffix(item.audio_filepath)
        audio = pathlib.Path(f'{item.audio_filepath}{suffix or ".flac"}')
        item = Utterance(item.id, audio, item.text, item.speaker, item.lang)
      yield item


def _utterance(
  transcripts: pathlib.Path, number: int, line: bytes, lang: str | None
) -> Item:
  name, _, text = line.strip().partition(b'\t')
  split, where = transcripts.parent, f'{transcripts} line {number}'
  if not (found := _ID.fullmatch(name)):
    name = f'{split.name}/{transcripts.name}:{number}'
    return BadUtterance(name, 'id', f'{where}: id is not speaker_book_segment')
  name, speaker, book = (part.decode() for part in (name, found[1], found[2]))
  try:
    text = text.decode().strip()
  except UnicodeDecodeError:
    return BadUtterance(name, 'text', f'{where}: text is not UTF-8')
  audio = pathlib.Path(f'{split}/audio/{speaker}/{book}/{name}')  # faster than by /
  return Utterance(name, audio, text, speaker, lang)


def _suffix(audio: pathlib.Path) -> str | None:
  suffixes = ('.flac', '.opus')
  return next((s for s in suffixes if os.path.exists(audio.with_suffix(s))), None)


def _language(split: pathlib.Path) -> str | None:
  """By the name of the folder around the split, where it says one."""
  folder = pathlib.Path(os.path.abspath(split)).parent.name
  found = _FOLDER.fullmatch(folder)
  return _LANGUAGES.get(found[1]) if found else None
