# SPDX-License-Identifier: Apache-2.0
"""Strings by key in a temporary file, for corpora whose files refer to each other."""

import sqlite3
from collections.abc import Iterator


class Lookup:
  """A mapping of strings to strings that takes little memory, whatever its size."""

  def __init__(self):
    self._database = sqlite3.connect('', isolation_level=None)
    self._database.execute('PRAGMA journal_mode = OFF')
    self._database.execute('CREATE TABLE entries (key BLOB PRIMARY KEY, value TEXT)')
    self._database.execute('BEGIN')

  def close(self) -> None:
    """Delete the file."""
    self._database.close()

  def add(self, key: str, value: str) -> bool:
    """Add an entry; returns False if there is one of this key, which stays."""
    query = 'INSERT OR IGNORE INTO entries VALUES (?, ?)'
    return bool(self._database.execute(query, (_encode(key), value)).rowcount)

  def get(self, key: str) -> str | None:
    """Return the value of a key, None if there is none."""
    query = 'SELECT value FROM entries WHERE key = ?'
    row = self._database.execute(query, (_encode(key),)).fetchone()
    return None if row is None else row[0]

  def pop(self, key: str) -> str | None:
    """Return the value of a key and remove it; None if there is none."""
    value = self.get(key)
    if value is not None:
      self._database.execute('DELETE FROM entries WHERE key = ?', (_encode(key),))
    return value

  def items(self) -> Iterator[tuple[str, str]]:
    """Yield keys and values in the order in which they were added."""
    query = 'SELECT key, value FROM entries ORDER BY rowid'
    for key, value in self._database.execute(query):
      yield key.decode(errors='surrogatepass'), value


def _encode(key: str) -> bytes:
  return key.encode(errors='surrogatepass')
