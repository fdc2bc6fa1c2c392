# SPDX-License-Identifier: Apache-2.0
"""The table of methods: reads the reports that `configs/methods.sh` wrote.

  python -m benchmarks.methods --input=WORK/methods

Prints a table in Markdown, one row per method and held-out set, then one line of JSON.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from acl_jax.runtime import program
from acl_jax.runtime.files import read_json

# Column -> how its value is written.
COLUMNS: dict[str, Callable[[Any], str]] = {
  'method': str,
  'set': str,
  'n': str,
  'audio': '{:.3f}'.format,
  'closed': lambda interval: format_interval(interval, '{:.0%}'),
  'hard': '{:.3f}'.format,
  'audio - hard': lambda interval: format_interval(interval, '{:+.3f}'),
  'WER': '{:.1%}'.format,
  'agreement': '{:.0%}'.format,
  'min': '{:.0f}'.format,
}


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
  return {
    'method': workdir.name,
    'set': path.parent.name.removeprefix('report-'),
    'n': report['examples'],
    'audio': nll['audio'],
    'closed': report['gap_closed']['audio'],
    'hard': nll['cascade_ctc'],
    'audio - hard': report['differences']['audio - cascade_ctc'],
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
  lines = [f'| {" | ".join(COLUMNS)} |', '|' + '---|' * len(COLUMNS)]
  for row in rows:
    cells = (
      '–' if row[name] is None else format_cell(row[name])
      for name, format_cell in COLUMNS.items()
    )
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines)


def format_interval(interval: dict[str, float | None], template: str) -> str:
  """Return a value of a report with its bounds, of which either may be missing."""
  value, low, high = (
    '–' if number is None else template.format(number) for number in interval.values()
  )
  return f'{value} [{low}, {high}]'


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
