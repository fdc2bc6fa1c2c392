# SPDX-License-Identifier: Apache-2.0
"""The members of a tar and where their bytes are, from its headers alone.

Nothing is extracted, so no name in a tar leads to a file, and no size in it to memory.
"""

import io
import pathlib
import tarfile
from collections.abc import Iterator

_HEADER_BYTES = 1 << 20  # tarfile itself reads names and attributes of any length
# What tarfile raises for damaged headers.
TAR_ERRORS = (
  tarfile.TarError,
  OSError,
  ValueError,
  ArithmeticError,
  LookupError,
  RecursionError,
)


class _HeaderReader(io.FileIO):
  """A tar file that refuses long reads, so only headers are read."""

  def read(self, size: int | None = -1, /) -> bytes:
    if size is None or not 0 <= size <= _HEADER_BYTES:
      raise tarfile.ReadError(f'has a header of {size} bytes, limit {_HEADER_BYTES}')
    return super().read(size)


def list_members(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
  """Yield name, offset and size of the files in a tar; raises TAR_ERRORS."""
  if not path.is_file():  # a pipe may be endless
    raise tarfile.ReadError('is not a regular file')
  last, end = -1, path.stat().st_size
  with (
    _HeaderReader(str(path)) as file,
    tarfile.open(fileobj=file, mode='r:', encoding='utf-8') as tar,
  ):
    while member := tar.next():
      # Otherwise tarfile keeps all members in memory.
      tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
      if member.offset <= last:  # a negative size would lead back
        raise tarfile.ReadError(f'is damaged at byte {last}')
      last = member.offset
      if not member.isreg() or member.issparse():
        continue
      if not 0 <= member.size <= end - member.offset_data:
        raise tarfile.ReadError(f'is truncated: {end} bytes end within a file')
      yield member.name, member.offset_data, member.size
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
      raise tarfile.ReadError(f'is truncated or damaged at byte {tar.offset}')
