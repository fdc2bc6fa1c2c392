# SPDX-License-Identifier: Apache-2.0
"""The folder for all outputs of a training run."""

from pathlib import Path


def open_workdir(path: Path) -> Path:
  """Create the folder and return it; OSError at once if it is not writable."""
  probe = path / '.writable'
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b'x')
    probe.unlink(missing_ok=True)  # another process may have removed it
  except OSError as error:
    raise OSError(
      f'--workdir={path}: cannot be written to ({error.strerror})'
    ) from None
  return path
