# SPDX-License-Identifier: Apache-2.0
"""Readers of speech corpora, one per layout; all yield the same types.

A reader streams utterances in a fixed order without opening any audio. An utterance
that cannot be used is yielded as a `BadUtterance`.
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
  vctk,
)
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance

CORPORA = {
  'folder': folder.read,
  'librispeech': librispeech.read,
  'manifest': manifest.read,
  'mls': mls.read,
  'common_voice': common_voice.read,
  'nemo_tarred': tarred.read,
  'tfds': tfds.read,
  'vctk': vctk.read,
}


def open_corpus(kind: str, path: str | Path) -> Iterator[AnyUtterance]:
  """Read the corpus at `path` in the layout `kind`, a key of CORPORA; ids are unique.

  path: may be a pattern of many paths, read as one corpus; see `patterns`.
  """
  if kind not in CORPORA:
    raise ValueError(f'corpus {kind!r} is not one of {", ".join(CORPORA)}')
  paths = [Path(path)] if Path(path).exists() else patterns.expand(path)
  for each in paths:
    # A split of a TFDS dataset is not a file of its own.
    if not each.exists() and not (kind == 'tfds' and each.parent.is_dir()):
      raise FileNotFoundError(f'{each}: the corpus does not exist')
  return reject_duplicates(itertools.chain.from_iterable(map(CORPORA[kind], paths)))


def reject_duplicates(utterances: Iterable[AnyUtterance]) -> Iterator[AnyUtterance]:
  """Yield utterances with an id seen before as bad ones.

  SQLite stores the ids in a temporary file, so that ten million ids take no more memory
  than its cache.
  """
  with closing(sqlite3.connect('', isolation_level=None)) as database:
    database.execute('PRAGMA journal_mode = OFF')
    database.execute('CREATE TABLE seen (id BLOB PRIMARY KEY) WITHOUT ROWID')
    database.execute('BEGIN')
    insert = 'INSERT OR IGNORE INTO seen VALUES (?)'
    for utterance in utterances:
      id = utterance.id.encode(errors='surrogatepass')  # may be a non-UTF-8 file name
      is_new = database.execute(insert, (id,)).rowcount
      if isinstance(utterance, Utterance) and not is_new:
        path = utterance.audio_filepath
        reason = f'{path}: id {utterance.id!r} occurs more than once'
        yield BadUtterance(utterance.id, 'id', reason)
      else:
        yield utterance
