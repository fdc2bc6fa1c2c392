# SPDX-License-Identifier: Apache-2.0
"""The folder for everything that a training makes."""

from pathlib import Path


def open_workdir(path: Path) -> Path:
  """Makes it; OSError now, not at the first checkpoint, if nothing can be written."""
  probe = path / '.writable'
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b'x')
    probe.unlink(missing_ok=True)  # another process of this training may be first
  except OSError as error:
    raise OSError(
      f'--workdir={path}: cannot be written to ({error.strerror})'
    ) from None
  return path
