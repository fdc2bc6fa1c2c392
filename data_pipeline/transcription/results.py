# SPDX-License-Identifier: Apache-2.0
"""Results of recordings in a file of JSON lines, to which every run adds.

A killed run may leave its last line incomplete; that recording is transcribed again.
"""

import json
import pathlib
from typing import Any

from data_pipeline.corpora.lookup import Lookup


class Results:
  """Results by fingerprint of the recording: all of the file, and those added to it."""

  def __init__(self, path: pathlib.Path):
    self._path, self._lookup = path, Lookup()
    if path.exists():
      with path.open('rb') as lines:
        for line in lines:
          self._load(line)
    self._file = path.open('a', encoding='utf-8')
    self._file.write('\n')  # ends an incomplete line

  def _load(self, line: bytes) -> None:
    try:
      key, result = json.loads(line)
    except ValueError:
      return
    if isinstance(key, str) and isinstance(result, dict):
      self._lookup.add(key, json.dumps(result))

  def close(self) -> None:
    """Close the file."""
    self._file.close()
    self._lookup.close()

  def __contains__(self, key: str) -> bool:
    return self._lookup.get(key) is not None

  def get(self, key: str) -> dict[str, Any] | None:
    """Return the result of a recording, None if there is none."""
    value = self._lookup.get(key)
    return None if value is None else json.loads(value)

  def add(self, key: str, result: dict[str, Any], stored: bool = True) -> None:
    """Add a result; one that is not stored is known in this run only."""
    self._lookup.add(key, json.dumps(result))
    if stored:
      self._file.write(json.dumps([key, result]) + '\n')

  def flush(self) -> None:
    """Write what was added to the file."""
    self._file.flush()
