# SPDX-License-Identifier: Apache-2.0
"""Files, whatever they hold."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
  """The checksum of a file's bytes, in hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
