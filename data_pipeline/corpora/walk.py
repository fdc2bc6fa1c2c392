# SPDX-License-Identifier: Apache-2.0
"""The files of a corpus at any depth, in links to folders too."""

import os
import pathlib
from collections.abc import Iterator

from data_pipeline.corpora.utterance import resolve_inside

_METADATA = {'.DS_Store', 'lost+found'}


def is_metadata(name: str) -> bool:
  """Return whether a name is of what systems leave beside the files of users."""
  return name.startswith('._') or name in _METADATA  # `._a.flac` is macOS' of `a.flac`


def walk(root: pathlib.Path, contained: bool = False) -> Iterator[pathlib.Path]:
  """Yield the files below a folder, sorted by the parts of their paths.

  Every folder is read once, however many links lead to it: by its own path if it is
  below `root`, or else by the first link to it. A link to a folder around `root` would
  lead back into it, so it is passed over.

  contained: ValueError for a link to a folder outside `root`. OSError for a folder that
  cannot be read.
  """
  seen: set[tuple[int, int]] = set()  # devices and inodes of folders
  resolved = root.resolve()
  stack = [_list(root, seen)]
  while stack:
    if (entry := next(stack[-1], None)) is None:
      stack.pop()
    elif not entry[1]:
      yield entry[0]
    elif not entry[0].is_symlink() or _is_outside(entry[0], resolved, contained):
      stack.append(_list(entry[0], seen))


def resolve_archive(
  root: pathlib.Path, file: pathlib.Path, contained: bool
) -> pathlib.Path:
  """Return the path of a file of a corpus at `root`, without links.

  root: a folder, or the file itself. contained: ValueError if it is outside of that
  folder, or of the folder of the file.
  """
  folder = root if root.is_dir() else root.parent
  try:
    return resolve_inside(folder.resolve(), file.absolute(), not contained)
  except ValueError as error:
    raise ValueError(f'{file}: {error}') from None


def _list(
  folder: pathlib.Path, seen: set[tuple[int, int]]
) -> Iterator[tuple[pathlib.Path, bool]]:
  """Return the paths in a folder and whether each is one; nothing if it was seen."""
  status = folder.stat()
  if (key := (status.st_dev, status.st_ino)) in seen:
    return iter(())
  seen.add(key)
  with os.scandir(folder) as entries:
    found = [(e.name, _is_folder(e)) for e in entries if not is_metadata(e.name)]
  return ((folder / name, is_folder) for name, is_folder in sorted(found))


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # a link to itself
    return False


def _is_outside(link: pathlib.Path, root: pathlib.Path, contained: bool) -> bool:
  """Return whether a link is to a folder that is neither below nor around `root`."""
  target = link.resolve()
  is_inside = target.is_relative_to(root)
  if contained and not is_inside:
    raise ValueError(
      f'{link}: is a link to {target}, outside the corpus, which --contained forbids'
    )
  return not is_inside and not root.is_relative_to(target)
