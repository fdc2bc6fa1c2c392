# SPDX-License-Identifier: Apache-2.0
"""Names under which published data sets have a transcript, its speaker and language."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from data_pipeline.corpora import manifest
from data_pipeline.corpora.utterance import Utterance

TEXT = ('text', 'sentence', 'transcription', 'transcript', 'normalized_text')
SPEAKER = ('speaker', 'speaker_id', 'client_id')
LANG = ('lang', 'language', 'locale')


def find(names: tuple[str, ...], columns: Collection[str]) -> str | None:
  """Return the first of the names that is a column, None if there is none."""
  return next((name for name in names if name in columns), None)


def make_utterance(values: Mapping[str, Any], id: str, path: pathlib.Path) -> Utterance:
  """Return the utterance of a row or an object; LineError if its text is none.

  A language is only taken if it is a string: numbers are of a list elsewhere.
  """
  text = find(TEXT, values)
  if text is None:
    raise manifest.LineError('text', f'is missing: there is no {", ".join(TEXT)}')
  speaker = values.get(find(SPEAKER, values) or '')
  if isinstance(speaker, int) and not isinstance(speaker, bool):
    speaker = str(speaker)
  lang = values.get(find(LANG, values) or '')
  return Utterance(
    id,
    path,
    manifest.required_string(values, text),
    speaker=manifest.optional_string({'speaker': speaker}, 'speaker'),
    lang=lang if isinstance(lang, str) else None,
  )
