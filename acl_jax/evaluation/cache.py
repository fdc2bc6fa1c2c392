# SPDX-License-Identifier: Apache-2.0
"""Results that survive an interrupted run, in a file of JSON lines."""

import json
import threading
from pathlib import Path
from typing import Any


class ResultCache:
  """A mapping from strings to JSON values; every assignment is written to disk.

  Several threads may use it.
  """

  def __init__(self, path: Path):
    self.path = path
    self._entries: dict[str, Any] = {}
    self._lock = threading.Lock()
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
      try:
        key, value = json.loads(line)
      except ValueError:  # blank, or truncated when an earlier run was killed
        continue
      self._entries[key] = value

  def __contains__(self, key: str) -> bool:
    return key in self._entries

  def __getitem__(self, key: str) -> Any:
    return self._entries[key]

  def __setitem__(self, key: str, value: Any) -> None:
    self._entries[key] = value
    with self._lock, self.path.open('a') as file:
      # Start a new line: a killed run may have left a truncated one.
      file.write(f'\n{json.dumps([key, value])}')
