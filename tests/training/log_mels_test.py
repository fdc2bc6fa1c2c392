# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax import assembly
from acl_jax.models.conformer import ConformerConfig
from acl_jax.training.log_mels import Changes, LogMels
from data_pipeline.augment import Augmentation, Masking
from data_pipeline.features import kaldi_log_mel, parakeet_log_mel, whisper_log_mel
from data_pipeline.records import Dataset
from tests.tiny_conformer import SIZES
from tests.tiny_world import load_config

MUCH = Augmentation(0.3, 0.5, (5.0, 30.0), 0.25)


@pytest.fixture(scope='module')
def dataset(tiny_world):
  return Dataset(tiny_world / 'prepared')


@pytest.fixture(scope='module')
def config(tiny_world):
  return assembly.load_encoder(load_config(tiny_world)).config


def test_unchanged_they_are_those_of_the_recordings(dataset, config):
  log_mels = LogMels(dataset, config, Changes())
  assert log_mels.ids == dataset.ids and log_mels.texts == dataset.texts
  for i in (3, 0):
    found = log_mels[i]
    assert found['id'] == dataset.ids[i] and found['text'] == dataset.texts[i]
    np.testing.assert_array_equal(found['frames'], whisper_log_mel(dataset[i]['audio']))


@pytest.mark.parametrize('copies', [1, 3])
def test_lengths_are_known_before_anything_is_read(dataset, config, copies):
  log_mels = LogMels(dataset, config, Changes(MUCH, copies=copies, seed=5))
  assert len(log_mels) == copies * len(dataset)
  read = log_mels.read(range(len(log_mels)))
  lengths = [-(-len(record['frames']) // 2) for record in read]
  assert log_mels.lengths.tolist() == lengths
  assert [record['id'] for record in read] == log_mels.ids == dataset.ids * copies


def test_each_copy_differs_and_each_reading_is_the_same(dataset, config):
  log_mels = LogMels(dataset, config, Changes(MUCH, copies=2, seed=5))
  plain, changed = log_mels[2]['frames'], log_mels[2 + len(dataset)]['frames']
  np.testing.assert_array_equal(plain, whisper_log_mel(dataset[2]['audio']))
  assert len(plain) != len(changed) or np.abs(plain - changed).max() > 0.01
  np.testing.assert_array_equal(changed, log_mels[2 + len(dataset)]['frames'])


def test_epochs_differ_in_all_but_the_length(dataset, config):
  masking = Masking(mel_masks=1, mel_width=5, time_masks=1, time_share=0.1)
  for how in (Changes(MUCH, seed=5), Changes(masking=masking, seed=5)):
    log_mels = LogMels(dataset, config, how)
    first, again, second = (
      log_mels.read([4], epoch)[0]['frames'] for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == second.shape and np.abs(first - second).max() > 0.01


def test_each_encoder_hears_its_own_features(dataset):
  for name, log_mel in (('kaldi', kaldi_log_mel), ('parakeet', parakeet_log_mel)):
    config = ConformerConfig(**SIZES | {'num_mel_bins': 80}, features=name)
    log_mels = LogMels(dataset, config, Changes())
    found = log_mels[3]['frames']
    np.testing.assert_array_equal(found, log_mel(dataset[3]['audio']))
    assert log_mels.lengths[3] == -(-len(found) // 8)
