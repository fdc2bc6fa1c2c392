# SPDX-License-Identifier: Apache-2.0
"""LibriSpeech, extracted: `speaker/chapter/speaker-chapter.trans.txt` and .flac files.

The path is one split (`dev-clean`) or the folder of several.
"""

import pathlib
import re
from collections.abc import Iterator

from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance

_ID = re.compile(r'(\d+)-\d+-\d+')


def read(path: pathlib.Path) -> Iterator[AnyUtterance]:
  """Yield utterances by chapter; transcripts stay in capitals, as published."""
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  for transcripts in sorted(path.rglob('*.trans.txt')):
    for number, line in enumerate(transcripts.read_bytes().splitlines(), 1):
      yield _parse_line(transcripts, number, line)


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
