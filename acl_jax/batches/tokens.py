# SPDX-License-Identifier: Apache-2.0
"""The tokens of the transcripts of a corpus, from the tables of its files."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from acl_jax.batches.source import SpeechSource
from acl_jax.batches.token_tables import encode_texts, min_frames_of_lines, open_tables
from acl_jax.text.tokenizer import TextEncoder
from data_pipeline.columns import Columns

SPAN_TOKENS = 1 << 18  # counted at a time

Encode = Callable[[str], list[int]]  # ValueError for a text that cannot be written


class CorpusTokens:
  """The tokens of the utterances of a corpus.

  tables: of the files that the transcripts are in. numbers: the line of each utterance,
  in the concatenated files. refused: the utterances whose transcript has no tokens,
  with a reason from `encode`.
  """

  def __init__(
    self, tables: Sequence[Columns], numbers: Int[np.ndarray, ' n'], encode: Encode
  ):
    self.encode, self._tables, self._numbers = encode, list(tables), numbers
    sizes = [table.size('need') for table in tables]
    self._starts = np.cumsum([0, *sizes])
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

  @functools.cached_property
  def need(self) -> Int[np.ndarray, ' n']:
    """Frames that CTC needs for the tokens of each utterance."""
    return self._gather('need')

  @functools.cached_property
  def letters(self) -> Int[np.ndarray, ' n']:
    """Frames that CTC needs for the letters of each utterance."""
    return self._gather('letters')

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

  @functools.cached_property
  def counts(self) -> Int[np.ndarray, ' v']:
    """How often each token occurs in the utterances."""
    uses = np.bincount(self._numbers, minlength=int(self._starts[-1]))
    most = int(uses.max(initial=0))
    size = max(table.size('counts') for table in self._tables)
    total = np.zeros(size, np.int64)
    for table, first in zip(self._tables, self._starts, strict=False):
      total[: table.size('counts')] += most * table['counts']
      # Few lines are left out or have fewer copies than the others.
      missing = most - uses[first : first + table.size('need')]
      for span in _spans(table):
        if len(rare := np.flatnonzero(missing[span])):
          lines = slice(span.start + rare[0], span.start + rare[-1] + 1)
          tokens, line_of = _read_lines(table, lines)
          np.subtract.at(total, tokens, missing[lines][line_of])
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


def _spans(table: Columns) -> Iterator[slice]:
  """Yield spans of lines with about `SPAN_TOKENS` tokens each."""
  starts, line = table['start'].astype(np.int64), 0
  while line < len(starts) - 1:
    stop = int(np.searchsorted(starts, starts[line] + SPAN_TOKENS, 'right')) - 1
    yield slice(line, stop := max(stop, line + 1))
    line = stop


def _read_lines(
  table: Columns, lines: slice
) -> tuple[Int[np.ndarray, ' t'], Int[np.ndarray, ' t']]:
  """Return the tokens of a span of lines, and the line of each within the span."""
  starts = table['start'][lines.start : lines.stop + 1].astype(np.int64)
  tokens = table.read('tokens', int(starts[0]), int(starts[-1]))
  return tokens, np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _count_frames(table: Columns, known: np.ndarray) -> Int[np.ndarray, ' n']:
  """Return the frames that CTC needs for the known tokens of every line."""
  parts = []
  for span in _spans(table):
    tokens, line_of = _read_lines(table, span)
    kept = known[tokens]
    size = span.stop - span.start
    parts.append(min_frames_of_lines(tokens[kept], line_of[kept], size))
  return np.concatenate(parts)
