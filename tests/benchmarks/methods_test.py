# SPDX-License-Identifier: Apache-2.0
import itertools
import json

import pytest

from acl_jax.config.experiment import parse_train
from benchmarks.methods import format_table, read_rows
from configs import methods

ROWS = [
  ','.join(row)
  for row in itertools.product(
    methods.ADAPTERS, ('none', 'lora', 'full'), methods.LOSSES
  )
  if not (row[0] in ('linear', 'ultravox') and row[2] == 'recognition')
]


def test_every_row_has_the_same_steps_and_audio():
  assert len(ROWS) == 2 * 3 * 2 + 2 * 3 * 3
  for row in ROWS:
    config = parse_train(methods.get_config(row))
    stages = [s for s in (config.ctc, config.transcription, config.response) if s]
    total = sum(stage.steps for stage in stages)
    extra = 0 if row.endswith('recognition') else methods.RESPONSE_STEPS
    assert total == methods.STEPS + extra, row
    # Half of what an attention adapter hears is silence.
    shares = 2 if row.startswith('attention') else 1
    frames = shares * methods.FRAMES_PER_BATCH
    assert {stage.frames_per_batch for stage in stages} == {frames}
    assert bool(config.encoder.trailing_silence) == (shares == 2)


@pytest.mark.parametrize(
  'row, message',
  [
    ('ctc,none', "'ctc,none' is not adapter,encoder,loss"),
    ('ctc,frozen,kl', "'frozen' is not one of none, lora, full"),
    ('linear,none,recognition', 'a stride adapter does not recognise'),
  ],
)
def test_bad_rows_are_named(row, message):
  with pytest.raises(ValueError, match=message):
    methods.get_config(row)


def test_reports_become_a_table(tmp_path):
  report = {
    'examples': 7,
    'response_nll': {'audio': 1.25, 'cascade_ctc': None},
    'gap_closed': {'audio': {'value': 0.5, 'low': 0.25, 'high': None}},
    'differences': {'audio - cascade_ctc': None},
    'wer': {'ctc': None},
    'greedy_agreement': {'audio': 0.75},
  }
  folder = tmp_path / 'linear-none-ce'
  (folder / 'report-read').mkdir(parents=True)
  (folder / 'report-read/report.json').write_text(json.dumps(report))
  (folder / 'seconds').write_text('60\n30\n')
  [row] = read_rows(tmp_path)
  assert row['method'] == 'linear-none-ce' and row['min'] == 1.5
  cells = '| linear-none-ce | read | 7 | 1.250 | 50% [25%, –] | – | – | – | 75% | 2 |'
  assert format_table([row]).splitlines()[-1] == cells
  row['audio - hard'] = {'nats': 0.25, 'low': -0.5, 'high': 1.0}
  assert '| +0.250 [-0.500, +1.000] |' in format_table([row])


def test_no_reports_are_an_error(tmp_path):
  with pytest.raises(ValueError, match='report.json'):
    read_rows(tmp_path)
