# SPDX-License-Identifier: Apache-2.0
"""LibriSpeech, extracted: `speaker/chapter/speaker-chapter.trans.txt` and .flac files.

The path is one split (`dev-clean`) or the folder of several.
"""

import codecs
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
from data_pipeline.corpora.walk import walk

_ID = re.compile(r'(\d+)-\d+-\d+')


def read(path: pathlib.Path, contained: bool = False) -> Iterator[AnyUtterance]:
  """Yield utterances by chapter; transcripts stay in capitals, as published.

  contained: links that leave the folder are refused.
  """
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  root = path.resolve()
  for transcripts in walk(path, contained):
    if transcripts.name.endswith('.trans.txt'):
      yield from _read_chapter(root, transcripts, contained)


def _read_chapter(
  root: pathlib.Path, transcripts: pathlib.Path, contained: bool
) -> Iterator[AnyUtterance]:
  try:
    if contained:
      resolve_inside(root, transcripts.resolve())
    content = transcripts.read_bytes()
  except (OSError, ValueError) as error:
    yield BadUtterance(transcripts.name, 'file', f'{transcripts}: file {error}')
    return
  try:
    text_files.check_not_utf16(content)
  except ValueError as error:
    text = content.decode(text_files.find_utf16(content), errors='replace')
    for line in text.splitlines():
      name = line.partition(' ')[0]
      yield BadUtterance(name, 'text', f'{transcripts}: text {error}')
    return
  content = content.removeprefix(codecs.BOM_UTF8)
  for number, line in enumerate(content.splitlines(), 1):
    utterance = _parse_line(transcripts, number, line)
    yield check_contained(utterance, root) if contained else utterance


def _parse_line(transcripts: pathlib.Path, number: int, line: bytes) -> AnyUtterance:
  name, _, text = line.decode(errors='replace').partition(' ')
  location = f'{transcripts} line {number}'
  if not (match := _ID.fullmatch(name)):
    name = f'{transcripts.name}:{number}'
    return BadUtterance(name, 'id', f'{location}: id is not speaker-chapter-number')
  if '\N{REPLACEMENT CHARACTER}' in text:
    return BadUtterance(name, 'text', f'{location}: text is not UTF-8')
  audio = transcripts.with_name(f'{name}.flac')
  return Utterance(name, audio, text.strip(), speaker=match[1], lang='en')
