# SPDX-License-Identifier: Apache-2.0
"""Responses that one may not want to imitate: each is kept, with a flag."""

from collections.abc import Sequence

FLAGS = ('empty', 'repetition', 'refusal', 'cut')


def flag(text: str, finish_reason: str, refusals: Sequence[str]) -> str:
  """The first of `FLAGS` that holds of a response, '' where none does.

  refusals: what refusals begin with, in any case.
  """
  said = _plain(text)
  if not said:
    return 'empty'
  if finish_reason == 'repetition':
    return 'repetition'
  if said.startswith(tuple(map(_plain, refusals))):
    return 'refusal'
  return 'cut' if finish_reason == 'length' else ''


def check_flags(names: Sequence[str]) -> None:
  """ValueError unless all of them are flags."""
  for name in names:
    if name not in FLAGS:
      raise ValueError(
        f'config.data.leave_out: {name!r} is no flag; known: {", ".join(FLAGS)}'
      )


def _plain(text: str) -> str:
  return text.strip().casefold().replace('\N{RIGHT SINGLE QUOTATION MARK}', "'")
