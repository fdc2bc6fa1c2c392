# SPDX-License-Identifier: Apache-2.0
"""Atomic writes, checksums, and JSON files of limited size."""

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

MAX_JSON_BYTES = 64 << 20


def require_local(path: str | os.PathLike[str], flag: str) -> Path:
  """Return a path; ValueError if it is a URL, which `Path` would make a local folder.

  flag: that names it, such as `--output`.
  """
  text = os.fspath(path)
  if re.match('[a-z][a-z0-9]+:/', text):  # `Path` has removed the second slash
    raise ValueError(
      f'{flag}={text}: is a URL; only the prepared folders that training reads may be'
      ' in an object store. Use a folder of this machine, or of a mounted bucket'
    )
  return Path(text)


def temporary_path(path: Path) -> Path:
  """Return a name beside `path` that no other process uses."""
  return path.with_name(f'{path.name}.{uuid.uuid4().hex}.tmp')


@contextlib.contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
  """Yield a temporary path; it replaces `path` if the block ends without an error.

  Readers see either the old file or the complete new one. Any number of processes may
  write the same file.
  """
  temporary = temporary_path(path)
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[TextIO]:
  """Open a UTF-8 text file that replaces `path` if the block ends without an error."""
  with replace_atomically(path) as temporary:
    with temporary.open('w', encoding='utf-8', newline='\n') as file:
      yield file


def write_atomically(path: Path, content: str | bytes) -> None:
  """Write a file atomically; text as UTF-8."""
  with replace_atomically(path) as temporary:
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(path: Path) -> str:
  """Return the checksum of a file's bytes, in hexadecimal."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def read_json(path: Path, missing_ok: bool = False) -> dict[str, Any]:
  """Read the object in a JSON file; {} for a missing file if `missing_ok`.

  Raises FileNotFoundError for a missing file otherwise, and ValueError if the file is
  larger than `MAX_JSON_BYTES`, is not JSON, or is not an object.
  """
  if not path.is_file():
    if missing_ok:
      return {}
    raise FileNotFoundError(f'{path} is missing')
  if (size := path.stat().st_size) > MAX_JSON_BYTES:
    raise ValueError(f'{path} has {size} bytes of JSON; the limit is {MAX_JSON_BYTES}')
  try:
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON ({error})') from error
  if not isinstance(value, dict):
    raise ValueError(f'{path} must be a JSON object; it is a {type(value).__name__}')
  return value
