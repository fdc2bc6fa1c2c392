# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import pickle

import numpy as np
import pytest

from data_pipeline import line_index
from data_pipeline.container import RecordError
from data_pipeline.id_hashes import hash_ids
from data_pipeline.line_index import index_path, open_prepared
from data_pipeline.records import Dataset

IDS = ['u0', 'ü1', '\ud800', 'u3', 'u4', 'u5', 'u6']


def write_lines(folder, texts='abcdefg'):
  """Write what a prepared folder says of its records."""
  lines = [
    json.dumps({'id': id, 'text': text, 'seconds': 0.5 + i, 'other': [i]})
    for i, (id, text) in enumerate(zip(IDS, texts, strict=True))
  ]
  (folder / 'index.jsonl').write_text(''.join(line + '\n' for line in lines))
  (folder / 'dataset.json').write_text('{}')
  return folder


@pytest.fixture
def made(monkeypatch):
  """The files of which an index was made, in order."""
  made, read = [], line_index._read_index
  monkeypatch.setattr(
    line_index, '_read_index', lambda *args: made.append(args[0]) or read(*args)
  )
  return made


def test_lines_are_read_on_demand_and_the_index_is_made_once(tmp_path, made):
  for _ in range(3):
    lines = pickle.loads(pickle.dumps(open_prepared(write_lines(tmp_path))))
    assert len(lines) == len(lines.ids) == 7
    assert [*lines.ids] == IDS and [*lines.texts] == [*'abcdefg']
    assert lines.ids[2] == IDS[2] and lines.texts[6] == 'g'
    assert lines.lengths.tolist() == [0.5 + i for i in range(7)]
    np.testing.assert_array_equal(lines.id_hashes, hash_ids(IDS))
  assert len(made) == 1 and not [*tmp_path.glob('.*')]
  for index in (7, -1):
    with pytest.raises(IndexError, match=f'{index} .* 7'):
      lines.ids[index]


def test_an_outdated_or_damaged_index_is_made_again(tmp_path, made, caplog):
  path = index_path(tmp_path / 'index.jsonl')
  open_prepared(write_lines(tmp_path))
  good = path.read_bytes()

  def cut():
    path.write_bytes(good[:-70])

  def flip():
    path.write_bytes(good[:-70] + bytes([good[-70] ^ 4]) + good[-69:])

  def other_shards():
    (tmp_path / 'dataset.json').write_text('{"shards": []}')

  def longer():
    write_lines(tmp_path, ('word', *'bcdefg'))

  def other_text():
    write_lines(tmp_path, ('wird', *'bcdefg'))
    os.utime(path, ns=(1, 1))

  for change, reason in (
    (cut, 'truncated'),
    (flip, 'damaged'),
    (other_shards, 'was made from'),
    (longer, 'was made from'),
    (other_text, 'is older than'),
  ):
    caplog.clear()
    change()
    before = len(made)
    assert [*open_prepared(tmp_path).texts][1:] == [*'bcdefg']
    assert len(made) == before + 1 and re_search(reason, caplog)
  assert open_prepared(tmp_path).texts[0] == 'wird'
  before = len(made)
  os.utime(path, ns=(1, 1))  # as in a copy of the folder
  assert open_prepared(tmp_path).texts[0] == 'wird' and len(made) == before
  assert path.stat().st_mtime_ns > 1


def re_search(reason, caplog):
  (record,) = caplog.records
  message = record.getMessage()
  return 'index.columns: ' in message and reason in message


def test_a_folder_that_cannot_be_written(tmp_path, made, monkeypatch, caplog):
  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr('data_pipeline.column_files.locks.own_file', refuse)
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      assert open_prepared(write_lines(tmp_path)).texts[3] == 'd'
  assert len(made) == 2 and 'made at every start' in caplog.text
  assert not index_path(tmp_path / 'index.jsonl').exists()


@pytest.mark.parametrize(
  'line, reason',
  [
    ('{"id": "a", "text": "b"}', "'seconds'"),
    ('{"id": 3, "text": "b", "seconds": 1}', 'must be strings'),
    ('{"id": "a", "text": "b", "seconds": NaN}', 'seconds is nan'),
    ('{"id": "a", "text": "b", "seconds": -1}', 'seconds is -1'),
    ('[]', 'list indices'),
    ('\xff', 'JSON'),
  ],
)
def test_lines_that_cannot_be_read_are_refused(tmp_path, line, reason):
  with (write_lines(tmp_path) / 'index.jsonl').open('a') as file:
    file.write(line + '\n')
  with pytest.raises(RecordError, match=rf'index\.jsonl: cannot be read .*{reason}'):
    open_prepared(tmp_path)


def test_a_line_that_changed_under_the_index_is_refused(tmp_path):
  lines = open_prepared(write_lines(tmp_path))
  content = lines.path.read_text()
  lines.path.write_text(content.replace('"u0"', '"x0"').replace('3.5', '3.6'))
  with pytest.raises(RecordError, match=r'line 4 changed since'):
    lines.ids[3]
  with pytest.raises(RecordError, match=r'line 1 changed since .*index\.columns'):
    lines.texts[0]
  assert lines.texts[1] == 'b'


def test_prepare_leaves_an_index(prepared, made):
  assert [*Dataset(prepared).ids] == [f'u{i}' for i in range(7)] and not made
  before = index_path(prepared / 'index.jsonl').read_bytes()
  index_path(prepared / 'index.jsonl').unlink()
  assert len(Dataset(prepared)) == 7 and made
  assert index_path(prepared / 'index.jsonl').read_bytes() == before
