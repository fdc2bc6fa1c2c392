# SPDX-License-Identifier: Apache-2.0
"""LibriSpeech as unpacked: `speaker/chapter/speaker-chapter.trans.txt` and .flac files.

The path may be one split (`dev-clean`) or the folder that holds several.
"""

import pathlib
import re
from collections.abc import Iterator

from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance

_ID = re.compile(r'(\d+)-\d+-\d+')


def read(path: pathlib.Path) -> Iterator[Item]:
  """Utterances by chapter; the transcripts stay in capitals, as published."""
  if not path.is_dir():
    raise NotADirectoryError(f'{path}: is not a folder')
  for transcripts in sorted(path.rglob('*.trans.txt')):
    for number, line in enumerate(transcripts.read_bytes().splitlines(), 1):
      yield _utterance(transcripts, number, line)


def _utterance(transcripts: pathlib.Path, number: int, line: bytes) -> Item:
  name, _, text = line.decode(errors='replace').partition(' ')
  where = f'{transcripts} line {number}'
  if not (found := _ID.fullmatch(name)):
    name = f'{transcripts.name}:{number}'
    return BadUtterance(name, 'id', f'{where}: id is not speaker-chapter-number')
  if '\N{REPLACEMENT CHARACTER}' in text:
    return BadUtterance(name, 'text', f'{where}: text is not UTF-8')
  audio = transcripts.with_name(f'{name}.flac')
  return Utterance(name, audio, text.strip(), speaker=found[1], lang='en')
