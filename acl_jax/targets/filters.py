# SPDX-License-Identifier: Apache-2.0
"""Flags of responses not worth imitating; flagged responses are stored all the same."""

from collections.abc import Sequence

from data_pipeline.corpora.text_files import is_blank

FLAGS = ('empty', 'repetition', 'refusal', 'cut')


def flag_response(text: str, finish_reason: str, refusals: Sequence[str]) -> str:
  """Return the first of `FLAGS` that applies to a response, or ''.

  refusals: openings of refusals, in any case.
  """
  normalised = _normalise(text)
  if is_blank(normalised):
    return 'empty'
  if finish_reason == 'repetition':
    return 'repetition'
  if normalised.startswith(tuple(map(_normalise, refusals))):
    return 'refusal'
  return 'cut' if finish_reason == 'length' else ''


def check_flags(names: Sequence[str]) -> None:
  """Raise ValueError for a name that is not a flag."""
  for name in names:
    if name not in FLAGS:
      raise ValueError(
        f'config.data.leave_out: {name!r} is not a flag; known: {", ".join(FLAGS)}'
      )


def _normalise(text: str) -> str:
  return text.strip().casefold().replace('\N{RIGHT SINGLE QUOTATION MARK}', "'")
