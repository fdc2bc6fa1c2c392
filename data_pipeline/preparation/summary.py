# SPDX-License-Identifier: Apache-2.0
"""The notes of all shards -> `index.jsonl`, `skipped.jsonl` and, last, `dataset.json`.

One note is held at a time.
"""

import bisect
import collections
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import open_atomically
from data_pipeline import audio, records
from data_pipeline.preparation.shard import Job

# Seconds. A length counts where it is at least the edge and less than the next.
EDGES = (0, 1, 2, 3, 5, 7, 10, 12, 15, 20, 25, 30, 60, 120, 300, 600)
LISTED = 100  # of the utterances that were skipped; skipped.jsonl has them all


class _Totals:
  """What `dataset.json` says, gathered note by note."""

  def __init__(self):
    self.seconds = 0.0
    self.histogram = [0] * len(EDGES)
    self.shards: list[dict[str, Any]] = []
    self.fields = collections.Counter()
    self.listed: list[dict[str, str]] = []

  @property
  def examples(self) -> int:
    return sum(self.histogram)

  def add(self, note: dict[str, Any]) -> None:
    index, skipped = note['index'], note['skipped']
    for entry in index:
      self.seconds += entry['seconds']
      self.histogram[bisect.bisect(EDGES, entry['seconds']) - 1] += 1
    shard = {'file': note['file'], 'examples': len(index), 'sha256': note['sha256']}
    self.shards.append(shard)
    self.fields.update(entry['field'] for entry in skipped)
    self.listed += skipped[: LISTED - len(self.listed)]

  def info(self) -> dict[str, Any]:
    return {
      'schema_version': records.SCHEMA_VERSION,
      'sample_rate': audio.SAMPLE_RATE,
      'examples': self.examples,
      'hours': round(self.seconds / 3600, 6),
      'seconds_histogram': {'edges': list(EDGES), 'counts': self.histogram},
      'shards': self.shards,
      'skipped_by_field': dict(self.fields.most_common()),
      'skipped': self.listed,
    }


def write(job: Job, max_skipped: float) -> dict[str, Any]:
  """Writes the three files; returns the content of `dataset.json`.

  ValueError, and only `skipped.jsonl`, if more than the share `max_skipped` of the
  utterances, or all of them, had to be skipped.
  """
  output, totals = job.output, _Totals()
  with open_atomically(output / 'index.jsonl') as index:
    with open_atomically(output / 'skipped.jsonl') as skipped:
      for part in range(job.plan.parts):
        note = _read_note(job, part)
        totals.add(note)
        index.writelines(json.dumps(entry) + '\n' for entry in note['index'])
        skipped.writelines(json.dumps(entry) + '\n' for entry in note['skipped'])
    _check_share(totals, max_skipped, output)
  info = totals.info() | {'encoding': job.settings.encoding}
  with open_atomically(output / 'dataset.json') as file:
    file.write(json.dumps(info, indent=2) + '\n')
  for left in (*output.glob('*.tmp'), *output.glob('progress/*.tmp')):
    with contextlib.suppress(OSError):
      left.unlink()  # by a worker that was killed
  return info


def _read_note(job: Job, part: int) -> dict[str, Any]:
  path = job.note(part)
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: cannot be read ({error}); do all workers write to this folder?'
    ) from None


def _check_share(totals: _Totals, max_skipped: float, output: Path) -> None:
  for entry in totals.listed:
    print(f'prepare: skipped {entry["id"]}: {entry["reason"]}', file=sys.stderr)
  fields, listed = dict(totals.fields.most_common()), len(totals.listed)
  count = sum(fields.values())
  if count > listed:
    print(
      f'prepare: skipped {count - listed} more, see {output / "skipped.jsonl"}',
      file=sys.stderr,
    )
  total = totals.examples + count
  if count > max_skipped * total or not totals.examples:
    raise ValueError(
      f'{count} of {total} utterances cannot be used {fields}, limit '
      f'{max_skipped:.1%}: mend them or raise --max_skipped; {output} keeps the others'
    )
