# SPDX-License-Identifier: Apache-2.0
"""The table of methods: reads the reports that `configs/methods.sh` wrote.

  python -m benchmarks.methods --input=WORK/methods

Prints a table in Markdown, one row per method and held-out set, then one line of JSON.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax.runtime import program
from acl_jax.runtime.files import read_json

HEADER = ('method', 'set', 'n', 'audio', 'closed', 'hard', 'WER', 'agreement', 'min')


def read_rows(folder: Path) -> list[dict[str, Any]]:
  """Return the figures of every report under `folder`, in the order of names.

  ValueError if there is none.
  """
  rows = [
    _read_row(path.parent.parent, path)
    for path in sorted(folder.glob('*/report-*/report.json'))
  ]
  if not rows:
    raise ValueError(f'{folder}: has no */report-*/report.json')
  return rows


def _read_row(workdir: Path, path: Path) -> dict[str, Any]:
  report = read_json(path)
  nll = report['response_nll']
  closed = report['gap_closed']['audio']
  return {
    'method': workdir.name,
    'set': path.parent.name.removeprefix('report-'),
    'n': report['examples'],
    'audio': nll['audio'],
    'closed': None if closed is None else closed['value'],
    'hard': nll['cascade_ctc'],
    'WER': report['wer']['ctc'],
    'agreement': report['greedy_agreement']['audio'],
    'min': _training_minutes(workdir / 'seconds'),
  }


def _training_minutes(path: Path) -> float | None:
  """Return the minutes of all runs of `train`, compilation included."""
  if not path.is_file():
    return None
  return round(sum(map(int, path.read_text().split())) / 60, 1)


def format_table(rows: Sequence[dict[str, Any]]) -> str:
  """Return the rows as a table in Markdown."""
  lines = [f'| {" | ".join(HEADER)} |', '|' + '---|' * len(HEADER)]
  for row in rows:
    cells = (_format_cell(row[name]) for name in HEADER)
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def _format_cell(value: Any) -> str:
  if value is None:
    return '–'
  return f'{value:.3f}' if isinstance(value, float) else str(value)


def main(argv: Sequence[str]) -> None:
  """Print the table, then the rows as one line of JSON."""
  del argv
  rows = read_rows(Path(flags.FLAGS.input))
  print(format_table(rows))
  print(json.dumps(rows))


if __name__ == '__main__':
  flags.DEFINE_string('input', None, 'folder of the workdirs')
  flags.mark_flags_as_required(['input'])
  program.run(main)
