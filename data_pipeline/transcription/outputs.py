# SPDX-License-Identifier: Apache-2.0
"""The files that `data_pipeline.transcribe` leaves: a manifest, and what is not in it.

They are `manifest.jsonl`, `skipped.jsonl` and, written last, `transcripts.json`.
"""

import collections
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from acl_jax.runtime.files import open_atomically
from data_pipeline.corpora.utterance import BadUtterance, Utterance
from data_pipeline.preparation.plan import Plan
from data_pipeline.transcription import recordings
from data_pipeline.transcription.results import Results

NOT_TRANSCRIBED = ('no_speech', 'confidence')  # fields of what could be read
MEASURES = ('confidence', 'mean_log_prob', 'no_speech_prob', 'compression_ratio')


class Limits(NamedTuple):
  """Confidence of a transcript in the manifest, fraction that may be unreadable."""

  min_confidence: float
  max_skipped: float


def write_outputs(
  output: pathlib.Path,
  plan: Plan,
  results: Results,
  limits: Limits,
  description: dict[str, Any],
) -> dict[str, Any]:
  """Write the three files; returns the content of `transcripts.json`.

  description: of the model and the settings, which is part of it. ValueError if too
  many recordings are unreadable, or none is in the manifest.
  """
  skipped_by_field, flagged = collections.Counter(), collections.Counter()
  count, seconds = 0, 0.0
  with (
    open_atomically(output / 'manifest.jsonl') as manifest,
    open_atomically(output / 'skipped.jsonl') as skipped,
  ):
    for utterance, result in _pairs(plan, results):
      bad = _find_fault(utterance, result, limits.min_confidence)
      if bad is not None:
        skipped_by_field[bad.field] += 1
        skipped.write(json.dumps(vars(bad)) + '\n')
        continue
      assert isinstance(utterance, Utterance)
      count, seconds = count + 1, seconds + result['seconds']
      flagged.update(result['flags'])
      line = make_line(utterance, result, output)
      manifest.write(json.dumps(line, ensure_ascii=False) + '\n')
  info = {
    'recordings': plan.utterances,
    'transcripts': count,
    'hours': round(seconds / 3600, 6),
    'flagged': dict(flagged.most_common()),
    'skipped_by_field': dict(skipped_by_field.most_common()),
    'min_confidence': limits.min_confidence,
    **description,
  }
  _check_counts(info, limits.max_skipped, output)
  with open_atomically(output / 'transcripts.json') as file:
    file.write(json.dumps(info, indent=2) + '\n')
  return info


def _check_counts(
  info: dict[str, Any], max_skipped: float, output: pathlib.Path
) -> None:
  skipped, total = info['skipped_by_field'], info['recordings']
  unreadable = sum(
    count for field, count in skipped.items() if field not in NOT_TRANSCRIBED
  )
  advice = f'see {output / "skipped.jsonl"}; the transcripts are kept'
  if unreadable > max_skipped * total:
    raise ValueError(
      f'{unreadable} of {total} recordings cannot be read {skipped}, limit '
      f'{max_skipped:.1%}; fix them or raise --max_skipped; {advice}'
    )
  if not info['transcripts']:
    raise ValueError(
      f'no transcript of {total} recordings is usable {skipped}; {advice}'
    )


def _pairs(
  plan: Plan, results: Results
) -> Iterator[tuple[Utterance | BadUtterance, dict[str, Any]]]:
  for part in range(plan.parts):
    for utterance in plan.read(part):
      if isinstance(utterance, BadUtterance):
        yield utterance, {}
      else:
        missing = {'field': 'file', 'reason': 'changed while it was transcribed'}
        yield utterance, results.get(recordings.fingerprint(utterance)) or missing


def _find_fault(
  utterance: Utterance | BadUtterance, result: dict[str, Any], min_confidence: float
) -> BadUtterance | None:
  """Return why a recording is not in the manifest, None if it is."""
  if isinstance(utterance, BadUtterance):
    return utterance
  id, path = utterance.id, utterance.audio_filepath
  if 'reason' in result:
    return BadUtterance(id, result['field'], result['reason'])
  if not result['text']:
    return BadUtterance(id, 'no_speech', f'{path}: no_speech: there is nothing to hear')
  if (confidence := result['confidence']) < min_confidence:
    reason = f'{path}: confidence is {confidence}, limit {min_confidence:g}'
    return BadUtterance(id, 'confidence', reason)
  return None


def make_line(
  utterance: Utterance, result: dict[str, Any], folder: pathlib.Path
) -> dict[str, Any]:
  """Return a line of the manifest in `folder`, with NeMo's keys and the measures."""
  path = utterance.audio_filepath
  if path.is_relative_to(folder):
    path = path.relative_to(folder)
  line: dict[str, Any] = {'audio_filepath': path.as_posix(), 'text': result['text']}
  if utterance.stretch:
    line |= {'offset': utterance.stretch[0], 'duration': utterance.stretch[1]}
  else:
    line['duration'] = round(result['seconds'], 4)
  line |= {'id': utterance.id, 'lang': utterance.lang or result['lang']}
  if utterance.speaker:
    line['speaker'] = utterance.speaker
  line |= {name: result[name] for name in MEASURES}
  return line | ({'flags': result['flags']} if result['flags'] else {})
