# SPDX-License-Identifier: Apache-2.0
"""A prepared folder in an emulator of S3 on this machine, by the client users have."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest

from data_pipeline import object_store
from data_pipeline.mixture import Corpora
from data_pipeline.object_store import StoreError
from data_pipeline.records import Dataset, RecordError

pytestmark = pytest.mark.full

BUCKET = 's3://speech'


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  from moto.server import ThreadedMotoServer

  server = ThreadedMotoServer('127.0.0.1', 0)
  server.start()
  host, port = server.get_host_and_port()
  environment = {
    'ACL_JAX_CACHE': str(tmp_path / 'cache'),
    'AWS_ENDPOINT_URL': f'http://{host}:{port}',
    'AWS_ACCESS_KEY_ID': 'key',
    'AWS_SECRET_ACCESS_KEY': 'secret',
    'AWS_DEFAULT_REGION': 'us-east-1',
    'AWS_EC2_METADATA_DISABLED': 'true',
  }
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr('data_pipeline.object_store.FIRST_DELAY', 0.01)
  system = fsspec.filesystem('s3', skip_instance_cache=True)
  system.mkdir('speech')
  yield system
  system.rm('speech', recursive=True)  # the emulator's state outlives its server
  server.stop()
  fsspec.get_filesystem_class('s3').clear_instance_cache()
  object_store._locate.cache_clear()


def test_a_folder_in_s3_reads_as_the_local_one(prepared, bucket):
  bucket.put(str(prepared), 'speech/prepared', recursive=True)
  local, remote = Corpora([prepared]), Corpora([f'{BUCKET}/prepared'])
  assert list(remote.ids) == list(local.ids)
  assert list(remote.texts) == list(local.texts)
  np.testing.assert_array_equal(remote.seconds, local.seconds)
  indices = [6, 0, 4, 2]
  expected = [each['audio'] for each in local.__getitems__(indices)]
  with ThreadPoolExecutor(4) as threads:  # as the loader reads
    many = [*threads.map(remote.__getitems__, [indices] * 8)]
  for records in many:
    for record, audio in zip(records, expected, strict=True):
      np.testing.assert_array_equal(record['audio'], audio)
  assert threading.active_count() < 50


def test_a_store_that_does_not_answer_is_one_sentence(prepared, bucket, monkeypatch):
  bucket.put(str(prepared), 'speech/prepared', recursive=True)
  dataset, answer = Dataset(f'{BUCKET}/prepared'), type(bucket)._cat_file
  names = []

  async def hang(self, path, **arguments):
    names.append(path)
    await asyncio.sleep(0.0 if len(names) == 2 else 30.0)
    return await answer(self, path, **arguments)

  monkeypatch.setattr(type(bucket), '_cat_file', hang)
  monkeypatch.setattr(object_store, 'ATTEMPT_SECONDS', 0.2)
  monkeypatch.setattr(object_store, 'ATTEMPTS', 3)
  with pytest.raises(StoreError, match=r'data-00001.*Timeout.*3 times in') as error:
    dataset[4]  # its second attempt reads the end of the shard
  assert str(error.value).startswith(BUCKET) and len(names) == 5


def test_what_s3_refuses_is_one_sentence(prepared, bucket, monkeypatch):
  with pytest.raises(FileNotFoundError, match=f'{BUCKET}/none/dataset.json: not found'):
    Dataset(f'{BUCKET}/none')
  bucket.put(str(prepared), 'speech/prepared', recursive=True)
  dataset = Dataset(f'{BUCKET}/prepared')
  bucket.rm('speech/prepared/data-00001-of-00003.array_record')
  with pytest.raises(FileNotFoundError, match=f'{BUCKET}/prepared/data-00001.*not f'):
    dataset[4]
  assert dataset[0]['id'] == 'u0'
  with pytest.raises(RecordError, match='data-00001-of-00003.array_record: is missing'):
    Dataset(f'{BUCKET}/prepared')
  for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
    monkeypatch.delenv(name)
  fsspec.get_filesystem_class('s3').clear_instance_cache()
  object_store._locate.cache_clear()
  with pytest.raises(StoreError, match='check the credentials') as error:
    Dataset(f'{BUCKET}/prepared')
  assert str(error.value).startswith(f'{BUCKET}/prepared/dataset.json: access')
