# SPDX-License-Identifier: Apache-2.0
"""What readers say of where audio lies survives the way through `prepare`."""

import json

from data_pipeline import records, tfds_builder
from data_pipeline.prepare import prepare


def test_stretches_of_a_file_are_prepared_alone(record, tmp_path):
  record(tmp_path / 'a.wav', seconds=2.0)
  lines = [
    dict(audio_filepath='a.wav', text='x', offset=start, duration=0.5)
    for start in (0, 1)
  ]
  (tmp_path / 'm.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  prepare('manifest', tmp_path / 'm.jsonl', tmp_path / 'out')
  lengths = [len(u['audio']) for u in records.Dataset(tmp_path / 'out')]
  assert lengths == [8_000, 8_000]


def test_through_tfds_and_back_nothing_changes(corpus, tmp_path):
  prepare('manifest', corpus, tmp_path / 'one')
  tfds_builder.build(tmp_path / 'one', tmp_path / 'tfds')
  prepare('tfds', tmp_path / 'tfds', tmp_path / 'two')
  for name in ('index.jsonl', 'data-00000-of-00001.array_record'):
    ours, theirs = (tmp_path / run / name for run in ('one', 'two'))
    assert ours.read_bytes() == theirs.read_bytes()
