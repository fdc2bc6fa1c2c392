# SPDX-License-Identifier: Apache-2.0
"""Readers of speech corpora, one per layout, all yielding the same thing.

A reader streams in a fixed order and opens no audio. What is wrong with one utterance
does not end the corpus: it is yielded as a `BadUtterance`.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from data_pipeline.corpora import (
  common_voice,
  folder,
  librispeech,
  manifest,
  mls,
  patterns,
  tarred,
  tfds,
)
from data_pipeline.corpora.utterance import BadUtterance, Item, Utterance

CORPORA = {
  'folder': folder.read,
  'librispeech': librispeech.read,
  'manifest': manifest.read,
  'mls': mls.read,
  'common_voice': common_voice.read,
  'nemo_tarred': tarred.read,
  'tfds': tfds.read,
}


def open_corpus(kind: str, path: str | Path) -> Iterator[Item]:
  """Reads the corpus at `path`, laid out as `kind` (a key of CORPORA), ids unique.

  `path` may stand for many, which are read as one corpus: see `patterns`.
  """
  if kind not in CORPORA:
    raise ValueError(f'corpus {kind!r} is not one of {", ".join(CORPORA)}')
  paths = [Path(path)] if Path(path).exists() else patterns.expand(path)
  for one in paths:
    # A split of a TFDS dataset is no file of its own.
    if not one.exists() and not (kind == 'tfds' and one.parent.is_dir()):
      raise FileNotFoundError(f'{one}: the corpus does not exist')
  return _unique(itertools.chain.from_iterable(map(CORPORA[kind], paths)))


def _unique(items: Iterable[Item]) -> Iterator[Item]:
  """Later utterances with an id that was there before become bad ones.

  The ids are kept by SQLite, in a temporary file that vanishes with the process: exact,
  and of ten million of them no more than its cache is in memory.
  """
  with closing(sqlite3.connect('', isolation_level=None)) as seen:
    seen.execute('PRAGMA journal_mode = OFF')
    seen.execute('CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID')
    seen.execute('BEGIN')
    insert = 'INSERT OR IGNORE INTO seen VALUES (?)'
    for item in items:
      # The name of a file may be more than UTF-8 can say.
      new = seen.execute(insert, (item.id.encode(errors='surrogatepass'),)).rowcount
      if isinstance(item, Utterance) and not new:
        reason = f'{item.audio_filepath}: id {item.id!r} is not the first of this name'
        yield BadUtterance(item.id, 'id', reason)
      else:
        yield item
