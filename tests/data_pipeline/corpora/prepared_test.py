# SPDX-License-Identifier: Apache-2.0
"""`prepare` reads the audio from where corpus readers locate it."""

import json

import pytest

from data_pipeline import records, tfds_builder
from data_pipeline.prepare import prepare


def test_stretches_of_a_file_become_separate_records(write_audio, tmp_path):
  write_audio(tmp_path / 'a.wav', seconds=2.0)
  lines = [
    dict(audio_filepath='a.wav', text='x', offset=start, duration=0.5)
    for start in (0, 1)
  ]
  (tmp_path / 'm.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  prepare('manifest', tmp_path / 'm.jsonl', tmp_path / 'out')
  lengths = [len(u['audio']) for u in records.Dataset(tmp_path / 'out')]
  assert lengths == [8_000, 8_000]


@pytest.mark.full
def test_round_trip_through_tfds(corpus, tmp_path):
  prepare('manifest', corpus, tmp_path / 'one')
  tfds_builder.build(tmp_path / 'one', tmp_path / 'tfds')
  prepare('tfds', tmp_path / 'tfds', tmp_path / 'two')
  for name in ('index.jsonl', 'data-00000-of-00001.array_record'):
    first, second = (tmp_path / run / name for run in ('one', 'two'))
    assert first.read_bytes() == second.read_bytes()
