# SPDX-License-Identifier: Apache-2.0
"""Prepared folders at URLs, against a store that fails as it is told to."""

import pickle

import numpy as np
import pytest

from data_pipeline import object_store, remote_shards
from data_pipeline.object_store import ATTEMPTS, Range, RemotePath, StoreError, as_path
from data_pipeline.records import Dataset, RecordError, Shards, shard_name, write_shard
from tests.data_pipeline.faulty_store import URL, fault, serve


@pytest.fixture
def store(tmp_path, monkeypatch):
  monkeypatch.setenv('ACL_JAX_CACHE', str(tmp_path / 'cache'))
  return serve(tmp_path, monkeypatch)


def short(content):
  return content[:-1]


def flipped(content):
  position = len(content) // 2
  return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def outage():
  return fault(TimeoutError('no answer'))


def test_a_remote_folder_reads_as_the_local_one(prepared, store):
  local, remote = Dataset(prepared), Dataset(f'{URL}/prepared/')
  store.reads.clear()
  indices = np.array([6, 0, 4, 0])
  for ours, theirs in zip(
    remote.__getitems__(indices), local.__getitems__(indices), strict=True
  ):
    np.testing.assert_array_equal(ours.pop('audio'), theirs.pop('audio'))
    assert ours == theirs
  assert len(store.reads) == 3 + 3  # ends of three shards, and three records
  assert [name[:10] for name, *_ in store.reads[:3]] == [
    f'data-0000{i}' for i in (2, 0, 1)
  ]
  remote[4]
  assert len(store.reads) == 6  # from the cache
  assert pickle.loads(pickle.dumps(remote))[5]['id'] == 'u5'


def test_a_start_reads_no_shard_and_copies_the_index_once(prepared, store):
  Dataset(f'{URL}/prepared')
  assert {name for name, *_ in store.reads} == {
    'dataset.json',
    'index.columns',
    'index.jsonl',
  }
  store.reads.clear()
  Dataset(f'{URL}/prepared')
  assert {name for name, *_ in store.reads} == {'dataset.json'}
  index = prepared / 'index.jsonl'
  index.write_text(index.read_text().replace('"u6"', '"v6"'))
  assert Dataset(f'{URL}/prepared').ids[6] == 'v6'
  copies = (store.root / 'cache/remote').rglob('*-*.*')
  names = sorted(path.name.partition('-')[2] for path in copies)
  assert names == ['dataset.json', 'index.columns', 'index.jsonl']


def test_records_of_any_size_at_any_offset(tmp_path, store):
  """Chunks are interrupted every 64 KiB; footers are longer than the first read."""
  rng = np.random.default_rng(0)
  sizes = [0, 1, 65_400, 65_536, 200_000, *rng.integers(0, 90_000, 20), 7]
  records = [rng.bytes(size) for size in sizes]
  write_shard(tmp_path / shard_name('x', 0, 3), records)
  write_shard(tmp_path / shard_name('x', 1, 3), [])
  many = [bytes([i % 256]) for i in range(9_000)]
  write_shard(tmp_path / shard_name('x', 2, 3), many)
  opened = Shards(URL, 'x')
  assert len(opened) == len(records) + 9_000
  order = rng.permutation(len(records))
  assert opened.__getitems__(order) == [records[i] for i in order]
  some = opened.__getitems__([len(records) + i for i in (8_999, 0, 4_097)])
  assert some == [many[8_999], many[0], many[4_097]]


def test_the_cache_is_bounded(tmp_path, store, monkeypatch):
  monkeypatch.setattr(remote_shards, 'CACHE_BYTES', 3_000)
  records = [bytes([i]) * 1_000 for i in range(9)]
  write_shard(tmp_path / shard_name('x', 0, 1), records)
  opened = Shards(URL, 'x')
  assert list(opened) == opened.__getitems__(range(9)) == records
  assert 0 < opened._cache.bytes <= 3_000


@pytest.mark.parametrize('damage', [outage(), short, fault(OSError('500')), flipped])
def test_failures_that_pass_are_retried(prepared, store, damage):
  dataset = Dataset(f'{URL}/prepared')
  store.reads.clear()
  store.faults += [None, damage, None]  # the ends of three shards
  store.faults += [None] * (damage is not flipped) + [None, damage, None]
  ids = [each['id'] for each in dataset.__getitems__([6, 0, 4])]
  assert ids == ['u6', 'u0', 'u4'] and not store.faults
  assert len(store.reads) == 6 + 2  # only what failed is read again


def test_an_outage_is_an_error_that_names_the_url(prepared, store):
  dataset = Dataset(f'{URL}/prepared')
  store.faults += [outage()] * ATTEMPTS
  with pytest.raises(StoreError, match='data-00001-of-.*no answer.*8 times in') as e:
    dataset[4]
  assert '\n' not in str(e.value) and str(e.value).startswith(f'{URL}/prepared/')
  assert dataset[4]['id'] == 'u4'  # once it is over
  store.faults += [outage()] * ATTEMPTS
  with pytest.raises(StoreError, match=f'{URL}/prepared/dataset.json: .*8 times'):
    Dataset(f'{URL}/prepared')


@pytest.mark.parametrize(
  'error, kind, message',
  [
    (PermissionError('AccessDenied'), StoreError, 'credentials'),
    (OSError('Forbidden: bucket'), StoreError, 'credentials'),
    (FileNotFoundError('gone'), FileNotFoundError, 'not found'),
  ],
)
def test_what_another_attempt_cannot_change_is_raised_at_once(
  prepared, store, error, kind, message
):
  dataset = Dataset(f'{URL}/prepared')
  store.reads.clear()
  store.faults += [fault(error)]
  with pytest.raises(kind, match=f'{URL}/prepared/data-.*{message}'):
    dataset[4]
  assert len(store.reads) == 1
  store.faults += [fault(error)]
  with pytest.raises(kind, match=f'{URL}/prepared/dataset.json: .*{message}|prepared'):
    Dataset(f'{URL}/prepared')


def test_damage_in_the_store_is_located(prepared, store):
  path = prepared / shard_name('data', 1, 3)
  content = bytearray(path.read_bytes())
  content[content.index(b'"u4"') + 1_000] ^= 1
  path.write_bytes(content)
  data = Dataset(f'{URL}/prepared')
  assert data[3]['id'] == 'u3' and data[5]['id'] == 'u5'
  for indices in ([4], [0, 3, 4, 5]):
    with pytest.raises(RecordError, match=f'{URL}.*00001-of-00003.*: record 1:'):
      data.__getitems__(indices)


@pytest.mark.parametrize('size', [0, 10, 65_536, 100_000])
def test_a_truncated_or_foreign_shard_is_refused(prepared, store, size):
  path = prepared / shard_name('data', 1, 3)
  data = Dataset(f'{URL}/prepared')
  for content in (path.read_bytes()[:size], bytes(size), b'\xff' * size):
    path.write_bytes(content)
    data = Dataset(f'{URL}/prepared')
    with pytest.raises(RecordError, match='00001-of-00003.*is not an ArrayRecord file'):
      data[3]


def test_a_shard_of_another_folder_is_refused(prepared, store):
  (prepared / shard_name('data', 0, 3)).write_bytes(
    (prepared / shard_name('data', 2, 3)).read_bytes()
  )
  with pytest.raises(RecordError, match='has 1 records, but 3 in dataset.json'):
    Dataset(f'{URL}/prepared')[0]


def test_what_cannot_be_a_folder(store):
  assert as_path('a/b').parts == ('a', 'b')
  assert str(as_path('gs://bucket/a/') / 'b') == 'gs://bucket/a/b'
  with pytest.raises(ValueError, match=r"gs://bucket/a: .*'acl_jax\[gcs\]'"):
    list(RemotePath('gs://bucket/a').glob('*'))
  with pytest.raises(ValueError, match='nowhere://bucket'):
    list(RemotePath('nowhere://bucket/a').glob('*'))
  with pytest.raises(ValueError, match='is not a URL such as'):
    as_path('gs://bucket/a::zip://b')
  with pytest.raises(FileNotFoundError, match=f'{URL}/none'):
    Dataset(f'{URL}/none')
  (store.root / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match=f'{URL}/empty: no shards'):
    Shards(f'{URL}/empty')


@pytest.mark.parametrize(
  'module, flags',
  [
    ('data_pipeline.prepare', ['--input=x', '--output=gs://bucket/x']),
    ('data_pipeline.inspect', ['gs://bucket/x']),
  ],
)
def test_a_url_where_only_a_path_works_is_refused(run_program, module, flags):
  done = run_program(module, *flags)
  assert done.returncode == 1 and 'gs://bucket/x: is a URL; ' in done.stderr
  assert done.stderr.count('\n') == 1


def test_reads_are_bounded(store):
  huge = Range(RemotePath(f'{URL}/x'), 0, 1 << 40)
  with pytest.raises(ValueError, match=f'{URL}/x: {1 << 40} bytes'):
    object_store.read_ranges([huge])
  assert not store.reads
