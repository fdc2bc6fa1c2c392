# SPDX-License-Identifier: Apache-2.0
"""The tokens of the transcripts of a corpus, from the tables of its files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from acl_jax.batches.source import SpeechSource
from acl_jax.batches.token_tables import encode_texts, min_frames_of_lines, open_tables
from acl_jax.text.tokenizer import TextEncoder
from data_pipeline.columns import Columns

BLOCK_TOKENS = 1 << 22  # counted at a time

Encode = Callable[[str], list[int]]  # ValueError for a text that cannot be written


class CorpusTokens:
  """The tokens of the utterances of a corpus.

  tables: of the files that the transcripts are in. numbers: the line of each utterance,
  in the concatenated files. need, letters: frames that CTC needs for the tokens and for
  the letters of each utterance. refused: those whose transcript has no tokens, with a
  reason from `encode`.
  """

  def __init__(
    self, tables: Sequence[Columns], numbers: Int[np.ndarray, ' n'], encode: Encode
  ):
    self.encode, self._tables, self._numbers = encode, list(tables), numbers
    sizes = [table.size('need') for table in tables]
    self._starts = np.cumsum([0, *sizes])
    self.need: Int[np.ndarray, ' n'] = self._gather('need')
    self.letters: Int[np.ndarray, ' n'] = self._gather('letters')
    self.refused: Bool[np.ndarray, ' n'] = self._gather('refused').astype(bool)

  @classmethod
  def open(
    cls, source: SpeechSource, encoder: TextEncoder, workdir: Path
  ) -> 'CorpusTokens':
    """Open the tables of the files of a corpus; see `open_tables`."""
    tables = open_tables(source.files, encoder, workdir)
    return cls(tables, source.numbers, encoder.encode)

  @classmethod
  def of_texts(cls, texts: Sequence[str], encode: Encode) -> 'CorpusTokens':
    """Return the tokens of transcripts in memory."""
    columns = Columns(encode_texts(texts, encode), {}, {})
    return cls([columns], np.arange(len(texts)), encode)

  def _gather(self, name: str) -> np.ndarray:
    columns = [table[name] for table in self._tables]
    whole = columns[0] if len(columns) == 1 else np.concatenate(columns)
    return whole[self._numbers]

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, index: int) -> Int[np.ndarray, ' n']:
    """Return the tokens of an utterance."""
    number = int(self._numbers[index])
    table = int(np.searchsorted(self._starts, number, 'right')) - 1
    number -= int(self._starts[table])
    start, stop = self._tables[table]['start'][number : number + 2].tolist()
    return self._tables[table].read('tokens', start, stop)

  def counts(self) -> Int[np.ndarray, ' v']:
    """Return how often each token occurs in the utterances."""
    uses = np.bincount(self._numbers, minlength=int(self._starts[-1]))
    most = int(uses.max(initial=0))
    size = max(table.size('counts') for table in self._tables)
    total = np.zeros(size, np.int64)
    for table, start in zip(self._tables, self._starts, strict=False):
      total[: table.size('counts')] += most * table['counts']
      # Few lines are left out or have fewer copies than the others.
      rare = np.flatnonzero(uses[start : start + table.size('need')] < most)
      for line in rare.tolist():
        first, last = table['start'][line : line + 2].tolist()
        missing = most - int(uses[start + line])
        np.subtract.at(total, table.read('tokens', first, last), missing)
    return total

  def need_without(self, known: Bool[np.ndarray, ' v']) -> Int[np.ndarray, ' n']:
    """Return `need` if all tokens but the `known` ones are dropped.

    known: by token; tokens beyond its end are not known.
    """
    parts = []
    for table in self._tables:
      counts = table['counts']
      mask = np.zeros(len(counts), bool)
      mask[: len(known)] = known[: len(counts)]
      if not (counts > 0)[~mask].any():
        parts.append(table['need'])
      elif mask.any():
        parts.append(_count_frames(table, mask))
      else:
        parts.append(np.zeros(table.size('need'), np.int32))
    return np.concatenate(parts)[self._numbers]


def _count_frames(table: Columns, known: np.ndarray) -> Int[np.ndarray, ' n']:
  """Return the frames that CTC needs for the known tokens, block by block of lines."""
  start, parts, line = table['start'].astype(np.int64), [], 0
  while line < len(start) - 1:
    stop = int(np.searchsorted(start, start[line] + BLOCK_TOKENS, 'right')) - 1
    stop = max(stop, line + 1)
    tokens = table.read('tokens', int(start[line]), int(start[stop]))
    lines = np.repeat(np.arange(stop - line), np.diff(start[line : stop + 1]))
    kept = known[tokens]
    parts.append(min_frames_of_lines(tokens[kept], lines[kept], stop - line))
    line = stop
  return np.concatenate(parts)
