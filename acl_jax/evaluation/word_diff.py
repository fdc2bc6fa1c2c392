# SPDX-License-Identifier: Apache-2.0
"""Word-level differences between a transcript and a hypothesis."""

import difflib


def diff_words(reference: str, hypothesis: str) -> list[tuple[str, bool]]:
  """Split a hypothesis into runs of words; True where they differ from the reference.

  Case and punctuation are ignored. Deletions produce no run.
  """
  words = hypothesis.split()
  matcher = difflib.SequenceMatcher(
    None, _normalise(reference), _normalise(hypothesis), autojunk=False
  )
  return [
    (' '.join(words[start:end]), operation != 'equal')
    for operation, _, _, start, end in matcher.get_opcodes()
    if start < end
  ]


def _normalise(text: str) -> list[str]:
  return [''.join(filter(str.isalnum, word.lower())) for word in text.split()]
