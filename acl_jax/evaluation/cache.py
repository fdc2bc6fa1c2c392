# SPDX-License-Identifier: Apache-2.0
"""Results worth keeping when a run is interrupted, in a file of JSON lines."""

import json
from pathlib import Path
from typing import Any


class ResultCache:
  """A mapping that is on disk as soon as something is put into it."""

  def __init__(self, path: Path):
    self.path = path
    self._entries: dict[str, Any] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
      try:
        key, value = json.loads(line)
      except ValueError:  # the line at which an earlier run was killed, or a blank one
        continue
      self._entries[key] = value

  def __contains__(self, key: str) -> bool:
    return key in self._entries

  def __getitem__(self, key: str) -> Any:
    return self._entries[key]

  def __setitem__(self, key: str, value: Any) -> None:
    self._entries[key] = value
    with self.path.open('a') as file:
      # The line break first: what a killed run left there must not spoil this line.
      file.write(f'\n{json.dumps([key, value])}')
