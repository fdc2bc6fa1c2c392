# SPDX-License-Identifier: Apache-2.0
"""Reviewed renderings to compare with."""

import os
from pathlib import Path

FOLDER = Path(__file__).parent / 'goldens'


def check(name: str, text: str) -> None:
  """Compare with the golden file of that name."""
  path = FOLDER / name
  if os.environ.get('UPDATE_GOLDENS'):
    FOLDER.mkdir(exist_ok=True)
    path.write_text(text)
  assert path.read_text() == text, (
    f'{path} differs from what would be launched; if that is intended, update it with'
    ' UPDATE_GOLDENS=1 pytest tests/launch and review the difference'
  )
