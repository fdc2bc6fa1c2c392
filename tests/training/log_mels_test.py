# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax import assembly
from acl_jax.training.log_mels import LogMels
from data_pipeline.augment import Augmentation
from data_pipeline.features import whisper_log_mel
from data_pipeline.records import Dataset
from tests.tiny_world import load_config

MUCH = Augmentation(0.3, 0.5, (5.0, 30.0), 0.25)


@pytest.fixture(scope='module')
def dataset(tiny_world):
  return Dataset(tiny_world / 'prepared')


@pytest.fixture(scope='module')
def config(tiny_world):
  return assembly.load_encoder(load_config(tiny_world)).config


def test_unchanged_they_are_those_of_the_recordings(dataset, config):
  log_mels = LogMels(dataset, config, augmentation=None, copies=1, seed=0)
  assert log_mels.ids == dataset.ids and log_mels.texts == dataset.texts
  for i in (3, 0):
    found = log_mels[i]
    assert found['id'] == dataset.ids[i] and found['text'] == dataset.texts[i]
    np.testing.assert_array_equal(found['frames'], whisper_log_mel(dataset[i]['audio']))


@pytest.mark.parametrize('copies', [1, 3])
def test_lengths_are_known_before_anything_is_read(dataset, config, copies):
  log_mels = LogMels(dataset, config, augmentation=MUCH, copies=copies, seed=5)
  assert len(log_mels) == copies * len(dataset)
  read = log_mels.__getitems__(range(len(log_mels)))
  lengths = [-(-len(record['frames']) // 2) for record in read]
  assert log_mels.lengths.tolist() == lengths
  assert [record['id'] for record in read] == log_mels.ids == dataset.ids * copies


def test_each_copy_differs_and_each_reading_is_the_same(dataset, config):
  log_mels = LogMels(dataset, config, augmentation=MUCH, copies=2, seed=5)
  plain, changed = log_mels[2]['frames'], log_mels[2 + len(dataset)]['frames']
  np.testing.assert_array_equal(plain, whisper_log_mel(dataset[2]['audio']))
  assert len(plain) != len(changed) or np.abs(plain - changed).max() > 0.01
  np.testing.assert_array_equal(changed, log_mels[2 + len(dataset)]['frames'])
