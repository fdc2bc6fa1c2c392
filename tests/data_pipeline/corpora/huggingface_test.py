# SPDX-License-Identifier: Apache-2.0
"""Data sets in Parquet, as `datasets` writes them: audio is a struct of bytes, path."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline import audio, parquet
from data_pipeline.corpora import BadUtterance, Utterance, open_corpus
from data_pipeline.prepare import Settings, prepare

AUDIO = pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())])


def write(path, rows, group=2, **types):
  """Write rows with the columns of the first, in groups of two."""
  path.parent.mkdir(parents=True, exist_ok=True)
  columns = {name: [row.get(name) for row in rows] for name in rows[0]}
  arrays = {
    name: pyarrow.array(values, types.get(name, AUDIO if name == 'audio' else None))
    for name, values in columns.items()
  }
  pyarrow.parquet.write_table(pyarrow.table(arrays), path, row_group_size=group)


def read(path, contained=False):
  found = list(open_corpus('huggingface', path, contained))
  good = [u for u in found if isinstance(u, Utterance)]
  return good, [u for u in found if isinstance(u, BadUtterance)]


@pytest.fixture
def rows(write_audio, tmp_path):
  """Seven rows of different lengths."""
  paths = [
    write_audio(tmp_path / f'raw/{i}.flac', seconds=0.1 + i / 20) for i in range(7)
  ]
  return [
    {'audio': {'bytes': p.read_bytes(), 'path': p.name}, 'text': f'Grüße {i}'}
    for i, p in enumerate(paths)
  ]


def test_shards_of_a_split_are_read_in_order(rows, tmp_path):
  more = [row | {'speaker_id': 80 + i, 'lang': 'de'} for i, row in enumerate(rows)]
  write(tmp_path / 'set/data/train-00000-of-00002.parquet', more[:4])
  write(tmp_path / 'set/data/train-00001-of-00002.parquet', more[4:])
  good, bad = read(tmp_path / 'set')
  assert not bad and [u.text for u in good] == [row['text'] for row in rows]
  ids = [f'data/train-00000-of-00002-{i}' for i in range(4)]
  assert [u.id for u in good][:4] == ids and good[4].id.endswith('00001-of-00002-0')
  assert (good[3].speaker, good[3].lang) == ('83', 'de')
  assert read(tmp_path / 'set/data/train')[0][6].text == rows[6]['text']
  lengths = [len(u.read(audio.Limits())) for u in good]
  assert lengths == [round((0.1 + i / 20) * 16_000) for i in range(7)]
  assert [len(u.read(audio.Limits())) for u in good[::-1]] == lengths[::-1]


def test_prepared_by_many_threads_as_from_files(rows, tmp_path):
  named = [row | {'id': 20 - i} for i, row in enumerate(rows)]
  named[2]['text'] = None
  write(tmp_path / 'set/part.parquet', named, group=5)
  null = [rows[0] | {'audio': None, 'id': 99}, rows[1] | {'id': 98}]
  null[1]['audio'] = {'bytes': None, 'path': None}
  write(tmp_path / 'set/tail.parquet', null)
  settings = Settings(shard_size=4)
  info = prepare(
    'huggingface',
    tmp_path / 'set',
    tmp_path / 'out',
    settings=settings,
    max_skipped=0.4,
    threads=5,
  )
  assert info['skipped_by_field'] == {'audio': 2, 'text': 1} and info['examples'] == 6
  lines = (tmp_path / 'out/index.jsonl').read_text().splitlines()
  index = [json.loads(line) for line in lines]
  assert [line['id'] for line in index] == ['20', '19', '17', '16', '15', '14']
  expected = [0.1 + i / 20 for i in (0, 1, 3, 4, 5, 6)]
  np.testing.assert_allclose([line['seconds'] for line in index], expected)
  reasons = {entry['id']: entry['reason'] for entry in info['skipped']}
  assert reasons['99'] == '99: audio is null'
  assert reasons['98'] == '98: audio has neither bytes nor a path'
  assert 'part.parquet row 3: text is missing' in reasons['part-2']


def test_rows_are_decoded_once_and_few_are_kept(rows, tmp_path, monkeypatch):
  path = tmp_path / 'x.parquet'
  write(path, [rows[i % 7] | {'text': str(i)} for i in range(40)], group=40)
  monkeypatch.setattr(parquet, 'MAX_WAITING', 3)
  decoded = []
  cells = parquet._read_cells
  monkeypatch.setattr(
    parquet,
    '_read_cells',
    lambda *source: (decoded.append(c) or c for c in cells(*source)),
  )
  column = parquet._Column(path, 0, 'audio')
  with ThreadPoolExecutor(2) as pool:
    found = list(pool.map(column.take, range(40)))
  assert [cell['path'] for cell in found] == [f'{i % 7}.flac' for i in range(40)]
  assert len(decoded) == 40
  column.take(39)  # from the start
  assert len(decoded) == 80 and len(column._waiting) == 3
  with pytest.raises(ValueError, match='x.parquet: row group 0 has no row 40'):
    column.take(40)
  with pytest.raises(ValueError, match='no row group 1'):
    parquet.read_cell(path, 1, 0, 'audio')


def test_a_value_that_many_rows_share_is_not_multiplied(
  rows, write_audio, tmp_path, monkeypatch
):
  large = write_audio(tmp_path / 'x.wav', seconds=1.6).read_bytes()
  row = rows[0] | {'audio': {'bytes': large, 'path': None}}
  write(tmp_path / 'x.parquet', [row] * 600, group=600)  # 30 MB
  assert (tmp_path / 'x.parquet').stat().st_size < 100 << 10
  good, _ = read(tmp_path / 'x.parquet')
  assert len(good) == 600
  batches, sizes = parquet._read_batches, []

  def watched(*arguments):
    for batch in batches(*arguments):
      sizes.append(batch.nbytes)
      yield batch

  monkeypatch.setattr(parquet, '_read_batches', watched)
  monkeypatch.setattr(parquet, 'MAX_WAITING_BYTES', 200_000)
  # In batches of four, or of one if all its bytes may be those of one value.
  for limit, count, largest in ((1 << 30, 76, 210_000), (60_000, 301, 52_000)):
    sizes.clear()
    monkeypatch.setattr(parquet, 'MAX_BATCH_BYTES', limit)
    column = parquet._Column(tmp_path / 'x.parquet', 0, 'audio')
    assert column.take(300)['bytes'] == large
    assert len(sizes) == count and max(sizes) < largest
    assert 0 < column._size() < 200_000


def test_paths_stay_in_the_folder_of_the_shard(rows, tmp_path):
  outside = rows[1] | {'audio': {'bytes': None, 'path': '../raw/1.flac'}}
  absolute = rows[2] | {'audio': {'bytes': None, 'path': str(tmp_path / 'raw/2.flac')}}
  inside = rows[0] | {'audio': {'bytes': None, 'path': 'x/0.flac'}}
  (tmp_path / 'set/x').mkdir(parents=True)
  (tmp_path / 'raw/0.flac').rename(tmp_path / 'set/x/0.flac')
  write(tmp_path / 'set/a.parquet', [inside, outside, absolute])
  good, _ = read(tmp_path / 'set')
  assert len(good[0].read(audio.Limits())) == 1_600
  for utterance in good[1:]:
    with pytest.raises(audio.AudioError, match='audio path is outside'):
      utterance.read(audio.Limits())


@pytest.mark.parametrize(
  'change, problem',
  [
    ({'text': ..., 'words': 'hi'}, 'has no column of text .*normalized_text.*words'),
    ({'audio': 'x.wav'}, 'has no column audio, a struct of bytes.*it has audio, text'),
    ({'audio': ..., 'a': {'bytes': b'x'}, 'b': {'bytes': b'x'}}, 'has no column audio'),
  ],
)
def test_missing_columns_are_named(rows, tmp_path, change, problem):
  row = {k: v for k, v in (rows[0] | change).items() if v is not ...}
  types = {'audio': pyarrow.string()} if 'words' not in row else {}
  write(tmp_path / 'x.parquet', [row], **types)
  with pytest.raises(ValueError, match=f'x.parquet: {problem}'):
    read(tmp_path / 'x.parquet')


@pytest.mark.parametrize('name', ['sentence', 'transcription', 'normalized_text'])
def test_other_names_of_columns(rows, tmp_path, name):
  row = {'wave': rows[0]['audio'], name: 'hi', 'client_id': 'ada', 'locale': 'en'}
  row |= {'language': 3}
  write(tmp_path / 'x.parquet', [row], wave=AUDIO)
  ((good,), _) = read(tmp_path / 'x.parquet')
  assert (good.text, good.speaker, good.lang) == ('hi', 'ada', None)
  assert len(good.read(audio.Limits())) == 1_600


def test_what_is_not_one_whole_split_is_refused(rows, tmp_path):
  for name in ('train-00000-of-00001', 'test-00000-of-00002', 'dev'):
    write(tmp_path / f'set/{name}.parquet', rows)
  with pytest.raises(ValueError, match='3 splits; choose one: --input=.*set/dev, '):
    read(tmp_path / 'set')
  assert len(read(tmp_path / 'set/train')[0]) == len(read(tmp_path / 'set/dev')[0]) == 7
  with pytest.raises(ValueError, match='test has 1 of 2 shards; number 1 is missing'):
    read(tmp_path / 'set/test')
  with pytest.raises(FileNotFoundError, match='set/other: .*no split'):
    read(tmp_path / 'set/other')
  (tmp_path / 'saved').mkdir()
  (tmp_path / 'saved/data-00000-of-00001.arrow').touch()
  with pytest.raises(ValueError, match=r'no .parquet files; .*to_parquet'):
    read(tmp_path / 'saved')
  (tmp_path / 'x.parquet').write_bytes(b'PAR1' * 9)
  with pytest.raises(ValueError, match='x.parquet: cannot be read as Parquet'):
    read(tmp_path / 'x.parquet')
  (tmp_path / 'set/link.parquet').symlink_to(tmp_path / 'x.parquet')
  with pytest.raises(ValueError, match='link.parquet: is outside the folder'):
    read(tmp_path / 'set/link.parquet', contained=True)
