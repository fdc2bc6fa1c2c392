# SPDX-License-Identifier: Apache-2.0
"""Stub programs that record their arguments."""

import os
from pathlib import Path

STUB = """#!/bin/bash
calls=("$TOOL_CALLS"/*)
printf '%s\\0' "${0##*/}" "$@" > "$TOOL_CALLS/$(printf %03d "${#calls[@]}")"
[[ "$*" != *' describe '* ]] || { [[ -n "$TOOL_STATE" ]] && echo "$TOOL_STATE"; }
"""


class Tools:
  """Stubs in a folder that comes first on the PATH."""

  def __init__(self, folder: Path, *names: str) -> None:
    self.folder, self._calls = folder / 'bin', folder / 'calls'
    self.folder.mkdir(parents=True)
    self._calls.mkdir()
    (self._calls / '000').touch()  # the stub's glob needs a match
    for name in names:
      self.add(self.folder / name)

  def add(self, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB)
    path.chmod(0o755)

  def environment(self, state: str = '') -> dict[str, str]:
    """Return the environment to run in; `describe` prints `state` or, if '', fails."""
    path = f'{self.folder}:{os.environ["PATH"]}'
    return {
      **os.environ,
      'PATH': path,
      'TOOL_CALLS': str(self._calls),
      'TOOL_STATE': state,
    }

  def calls(self) -> list[list[str]]:
    """Return the calls in order, each as the tool's name and its arguments."""
    files = sorted(self._calls.iterdir())[1:]
    return [path.read_text().split('\0')[:-1] for path in files]
