# SPDX-License-Identifier: Apache-2.0
"""Transcripts as tokens: tokenised once per tokenizer, then memory-mapped.

The table `tokens-*.columns` of a file of lines has, for every line, its tokens, the
frames that CTC needs for them and for its letters, and whether the tokenizer refuses
it; and how often each token occurs. It is beside the lines, or in the workdir if that
folder cannot be written. All processes make parts of it, which an interrupted run
keeps.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging
from jaxtyping import Int

from acl_jax.models.spelling import encode_letters
from acl_jax.runtime import barriers
from acl_jax.runtime.progress import progress
from acl_jax.text.tokenizer import TextEncoder
from data_pipeline.columns import Columns, ColumnsError, open_columns, write_columns
from data_pipeline.line_index import Lines
from data_pipeline.object_store import local_copy

VERSION = 1
PART_LINES = 1 << 16  # tokenised between two files; a killed run loses so many
MIN_PROGRESS = 1 << 15  # lines that take long enough to report progress
COPY = 'copy'  # the table is in the object store, of which each machine has a copy
MINUTES = 120.0  # that other processes may need for one more part
SMALL = ('start', 'need', 'letters', 'refused', 'counts')  # all but the tokens


def open_tables(
  files: Sequence[Lines], encoder: TextEncoder, workdir: Path
) -> list[Columns]:
  """Open the tables of files of lines; all processes make those that are missing.

  workdir: where a table is made if the folder of its lines cannot be written, or is in
  an object store.
  """
  return [_open_table(lines, encoder, workdir) for lines in files]


def _open_table(lines: Lines, encoder: TextEncoder, workdir: Path) -> Columns:
  source = lines.columns.facts['sha256']
  key = {'version': VERSION, 'lines': source, 'tokenizer': encoder.fingerprint}
  name = f'tokens-{encoder.fingerprint[:16]}-{source[:16]}.columns'
  # The copy of remote lines is in a folder that other machines do not see.
  folders = [workdir] if lines.remote else [lines.path.parent, workdir]
  copy = _copy_table(lines, name)
  places = [folder / name for folder in folders]
  found = _find_table([copy, *places] if copy else places, key)
  can_write = os.access(folders[0], os.W_OK)
  place = COPY if found and found == copy else found or places[0 if can_write else -1]
  # Process 0 decides for all, or they would wait at different barriers.
  choice = json.dumps([found is None, str(place)])
  is_missing, place = json.loads(barriers.broadcast('token table', choice, MINUTES))
  if place == COPY and lines.remote:
    return open_columns(copy or local_copy(lines.remote / name), key)
  if is_missing:
    _make_table(Path(place), lines, encoder, key)
  return open_columns(Path(place), key)


def _copy_table(lines: Lines, name: str) -> Path | None:
  """Copy the table of remote lines to this machine; None if the store has none."""
  if lines.remote is None:
    return None
  try:
    return local_copy(lines.remote / name)
  except FileNotFoundError:
    return None


def _find_table(paths: Sequence[Path], key: dict[str, str | int]) -> Path | None:
  for path in paths:
    try:
      columns = open_columns(path, key)
      for name in SMALL:  # the tokens are checked as they are read
        columns[name]
      return path
    except ColumnsError as error:
      if path.exists():
        logging.warning('%s; it is made again', error)
  return None


def _make_table(path: Path, lines: Lines, encoder: TextEncoder, key: dict) -> None:
  """Tokenise this process' parts of the lines; process 0 joins all of them."""
  host, hosts = jax.process_index(), jax.process_count()
  path.parent.mkdir(parents=True, exist_ok=True)
  starts = range(0, max(1, len(lines)), PART_LINES)
  parts = [path.with_name(f'.{path.name}.{i}.part') for i in range(len(starts))]
  mine = [*zip(parts, starts, strict=True)][host::hosts]
  total = sum(min(PART_LINES, len(lines) - start) for _, start in mine)
  with progress('tokens of transcripts', max(total, 1), 'lines') as advance:
    for part, start in mine:
      size = min(PART_LINES, len(lines) - start)
      if not _is_current(part, key):
        texts = (lines.texts[i] for i in range(start, start + size))
        columns = encode_texts(texts, encoder.encode)
        write_columns(part, {name: [c] for name, c in columns.items()}, key)
      if total > MIN_PROGRESS:
        advance(size)
  barriers.wait('parts of the token table', MINUTES)
  if host == 0:
    _join_parts(path, [open_columns(part, key) for part in parts], key)
    for part in parts:
      part.unlink()
  barriers.wait('token table', MINUTES)


def _is_current(path: Path, key: dict) -> bool:
  try:
    columns = open_columns(path, key)
    return all(len(columns[name]) >= 0 for name in columns)
  except ColumnsError:
    return False


def _join_parts(path: Path, parts: Sequence[Columns], key: dict) -> None:
  ends = list(itertools.accumulate(part.size('tokens') for part in parts))
  starts = [np.zeros(1, np.uint64)]
  counts = np.zeros(max([1, *(part.size('counts') for part in parts)]), np.int64)
  for part, before in zip(parts, [0, *ends], strict=False):
    starts.append(part['start'][1:] + np.uint64(before))
    counts[: part.size('counts')] += part['counts']
  columns = {name: [part[name] for part in parts] for name in ('need', 'letters')}
  columns['refused'] = [part['refused'] for part in parts]
  columns |= {'start': starts, 'counts': [counts]}
  columns['tokens'] = [part['tokens'] for part in parts]
  write_columns(path, columns, key)


def min_frames(labels: Sequence[int]) -> int:
  """Return the fewest frames for which CTC has an alignment of the labels.

  A repeated label needs a blank in between.
  """
  return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


def encode_texts(
  texts: Iterable[str], encode: Callable[[str], list[int]]
) -> dict[str, np.ndarray]:
  """Return the columns of the table of some transcripts."""
  tokens, sizes, letters, refused = [], [], [], []
  for text in texts:
    try:
      encoded = encode(text)
      refused.append(0)
    except ValueError:
      encoded = []
      refused.append(1)
    tokens.append(np.asarray(encoded, np.int32))
    sizes.append(len(encoded))
    letters.append(min_frames(encode_letters(text)))
  flat = np.concatenate([np.empty(0, np.int32), *tokens])
  lines = np.repeat(np.arange(len(sizes)), np.asarray(sizes, np.int64))
  return {
    'start': np.cumsum([0, *sizes]).astype(np.uint64),
    'tokens': flat,
    'need': min_frames_of_lines(flat, lines, len(sizes)),
    'letters': np.asarray(letters, np.int32),
    'refused': np.asarray(refused, np.uint8),
    'counts': np.bincount(flat).astype(np.int64),
  }


def min_frames_of_lines(
  tokens: Int[np.ndarray, ' t'], lines: Int[np.ndarray, ' t'], count: int
) -> Int[np.ndarray, ' n']:
  """Return `min_frames` of the tokens of each line."""
  repeated = (tokens[1:] == tokens[:-1]) & (lines[1:] == lines[:-1])
  frames = np.bincount(lines, minlength=count)
  frames += np.bincount(lines[1:][repeated], minlength=count)
  return frames.astype(np.int32)
