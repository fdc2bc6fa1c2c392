# SPDX-License-Identifier: Apache-2.0
"""The progress files of all shards merged into the files of a prepared folder.

They are `index.jsonl`, its index `index.columns`, `skipped.jsonl` and, written last,
`dataset.json`. Only one progress file is in memory at a time.
"""

import bisect
import collections
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import open_atomically, write_atomically
from data_pipeline import audio, line_index, records
from data_pipeline.preparation.shard import Job

# Seconds; a bin includes its lower edge.
HISTOGRAM_EDGES = (0, 1, 2, 3, 5, 7, 10, 12, 15, 20, 25, 30, 60, 120, 300, 600)
MAX_LISTED = 100  # utterances of a kind in dataset.json; skipped.jsonl has all of its


class _Totals:
  """The content of `dataset.json`, accumulated over shards."""

  def __init__(self):
    self.seconds = 0.0
    self.histogram = [0] * len(HISTOGRAM_EDGES)
    self.shards: list[dict[str, Any]] = []
    self.skipped_by_field = collections.Counter()
    self.skipped: list[dict[str, str]] = []
    self.without_speech, self.silent_ids = 0, []

  @property
  def examples(self) -> int:
    return sum(self.histogram)

  def add(self, info: dict[str, Any]) -> None:
    """Add the progress file of a shard."""
    index, skipped = info['index'], info['skipped']
    for entry in index:
      self.seconds += entry['seconds']
      self.histogram[bisect.bisect(HISTOGRAM_EDGES, entry['seconds']) - 1] += 1
    shard = {'file': info['file'], 'examples': len(index), 'sha256': info['sha256']}
    self.shards.append(shard)
    self.skipped_by_field.update(entry['field'] for entry in skipped)
    self.skipped += skipped[: MAX_LISTED - len(self.skipped)]
    silent = info.get('without_speech', ())  # shards of earlier versions have none
    self.without_speech += len(silent)
    self.silent_ids += silent[: MAX_LISTED - len(self.silent_ids)]

  def info(self) -> dict[str, Any]:
    return {
      'schema_version': records.SCHEMA_VERSION,
      'sample_rate': audio.SAMPLE_RATE,
      'examples': self.examples,
      'hours': round(self.seconds / 3600, 6),
      'seconds_histogram': {'edges': list(HISTOGRAM_EDGES), 'counts': self.histogram},
      'shards': self.shards,
      'skipped_by_field': dict(self.skipped_by_field.most_common()),
      'skipped': self.skipped,
      'without_speech': {'count': self.without_speech, 'ids': self.silent_ids},
    }


def write_summary(job: Job, max_skipped: float) -> dict[str, Any]:
  """Write the four files; returns the content of `dataset.json`.

  ValueError if all utterances, or more than the fraction `max_skipped`, were skipped;
  then only `skipped.jsonl` is written.
  """
  output, totals = job.output, _Totals()
  builder = line_index.Builder('seconds', 'float32')
  with open_atomically(output / 'index.jsonl') as index:
    with open_atomically(output / 'skipped.jsonl') as skipped:
      for part in range(job.plan.parts):
        info = _read_shard_info(job, part)
        totals.add(info)
        for entry in info['index']:
          index.write(line := json.dumps(entry) + '\n')
          builder.add(line.encode(), entry)
        skipped.writelines(json.dumps(entry) + '\n' for entry in info['skipped'])
    _check_skipped(totals, max_skipped, output)
  info = totals.info() | {'encoding': job.settings.encoding}
  content = json.dumps(info, indent=2) + '\n'
  builder.write(output / 'index.jsonl', content.encode())
  write_atomically(output / 'dataset.json', content)
  # Killed workers leave temporary files.
  for leftover in (*output.glob('*.tmp'), *output.glob('progress/*.tmp')):
    with contextlib.suppress(OSError):
      leftover.unlink()
  return info


def _read_shard_info(job: Job, part: int) -> dict[str, Any]:
  path = job.progress_path(part)
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: cannot be read ({error}); do all workers write to this folder?'
    ) from None


def _check_skipped(totals: _Totals, max_skipped: float, output: Path) -> None:
  """Print the skipped utterances; ValueError if there are too many."""
  for entry in totals.skipped:
    print(f'prepare: skipped {entry["id"]}: {entry["reason"]}', file=sys.stderr)
  by_field, listed = dict(totals.skipped_by_field.most_common()), len(totals.skipped)
  count = sum(by_field.values())
  if count > listed:
    print(
      f'prepare: skipped {count - listed} more, see {output / "skipped.jsonl"}',
      file=sys.stderr,
    )
  total = totals.examples + count
  if count > max_skipped * total or not totals.examples:
    raise ValueError(
      f'{count} of {total} utterances cannot be used {by_field}, limit '
      f'{max_skipped:.1%}; fix them or raise --max_skipped; {output} keeps the others'
    )
