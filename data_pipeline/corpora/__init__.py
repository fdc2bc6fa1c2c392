# SPDX-License-Identifier: Apache-2.0
"""Readers of speech corpora, one per layout; all yield the same types.

A reader streams utterances in a fixed order without opening any audio. An utterance
that cannot be used is yielded as a `BadUtterance`.
"""

import dataclasses
import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from data_pipeline.corpora import (
  common_voice,
  folder,
  huggingface,
  kaldi,
  lhotse,
  librispeech,
  manifest,
  mls,
  patterns,
  tarred,
  tfds,
  vctk,
  webdataset,
)
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance

CORPORA = {
  'folder': folder.read,
  'huggingface': huggingface.read,
  'kaldi': kaldi.read,
  'lhotse': lhotse.read,
  'librispeech': librispeech.read,
  'manifest': manifest.read,
  'mls': mls.read,
  'common_voice': common_voice.read,
  'nemo_tarred': tarred.read,
  'tfds': tfds.read,
  'vctk': vctk.read,
  'webdataset': webdataset.read,
}
_WITH_SPLITS = ('huggingface', 'tfds')  # a split of these is not a file of its own


def open_corpus(
  kind: str, path: str | Path, contained: bool = False
) -> Iterator[AnyUtterance]:
  """Read the corpus at `path` in the layout `kind`, a key of CORPORA; ids are unique.

  path: may be a pattern of many paths, read as one corpus; see `patterns`. contained:
  refuse audio outside of each path's folder, to which links and absolute paths lead.
  """
  if kind not in CORPORA:
    raise ValueError(f'corpus {kind!r} is not one of {", ".join(CORPORA)}')
  paths = [Path(path)] if Path(path).exists() else patterns.expand(path)
  for each in paths:
    if not each.exists() and not (kind in _WITH_SPLITS and each.parent.is_dir()):
      raise FileNotFoundError(f'{each}: the corpus does not exist')
  parts = (CORPORA[kind](each, contained) for each in paths)
  return reject_duplicates(itertools.chain.from_iterable(parts))


def reject_duplicates(utterances: Iterable[AnyUtterance]) -> Iterator[AnyUtterance]:
  """Yield utterances with an id seen before as bad ones, or with an alternative id.

  An id that was made of a path without its suffix gets the suffix if another file has
  the id; the first keeps it. SQLite stores the ids in a temporary file, so that ten
  million ids take no more memory than its cache.
  """
  with closing(sqlite3.connect('', isolation_level=None)) as database:
    database.execute('PRAGMA journal_mode = OFF')
    columns = 'id BLOB PRIMARY KEY, alternative BLOB'
    database.execute(f'CREATE TABLE seen ({columns}) WITHOUT ROWID')
    database.execute('BEGIN')
    for utterance in utterances:
      if isinstance(utterance, BadUtterance):
        _insert(database, utterance.id, None)
        yield utterance
      elif (id := _find_free_id(database, utterance)) is None:
        path = utterance.audio_filepath
        reason = f'{path}: id {utterance.id!r} occurs more than once'
        yield BadUtterance(utterance.id, 'id', reason)
      elif utterance.alternative_id is None:
        yield utterance
      else:
        yield dataclasses.replace(utterance, id=id, alternative_id=None)


def _find_free_id(database: sqlite3.Connection, utterance: Utterance) -> str | None:
  """Return the id of an utterance or its alternative, which is taken from now on."""
  id, alternative = utterance.id, utterance.alternative_id
  if _insert(database, id, alternative):
    return id
  if alternative is None:
    return None
  query = 'SELECT alternative FROM seen WHERE id = ?'
  ((other,),) = database.execute(query, (_encode(id),))
  is_new = other != _encode(alternative) and _insert(database, alternative, None)
  return alternative if is_new else None


def _insert(database: sqlite3.Connection, id: str, alternative: str | None) -> bool:
  """Add an id; returns False if it was there."""
  row = _encode(id), None if alternative is None else _encode(alternative)
  return bool(
    database.execute('INSERT OR IGNORE INTO seen VALUES (?, ?)', row).rowcount
  )


def _encode(id: str) -> bytes:
  return id.encode(errors='surrogatepass')  # it may be of a file name in another code
