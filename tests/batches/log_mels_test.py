# SPDX-License-Identifier: Apache-2.0
import re

import jax
import numpy as np
import pytest

from acl_jax import build
from acl_jax.batches.log_mels import LogMelCorpus, load_packed
from acl_jax.config.sections import AugmentationConfig
from acl_jax.models.conformer import ConformerConfig
from data_pipeline.augment import Augmentation, Masking
from data_pipeline.batches import BatchPlan
from data_pipeline.container import RecordError
from data_pipeline.features import kaldi_log_mel, parakeet_log_mel, whisper_log_mel
from data_pipeline.records import Dataset
from tests.tiny_conformer import SIZES
from tests.tiny_world import load_config

STRONG = Augmentation(0.3, 0.5, (5.0, 30.0), 0.25)


@pytest.fixture(scope='module')
def dataset(tiny_world):
  return Dataset(tiny_world / 'prepared')


@pytest.fixture(scope='module')
def config(tiny_world):
  return build.load_encoder(load_config(tiny_world).encoder).config


def test_without_augmentation_features_are_those_of_the_audio(dataset, config):
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
  assert log_mels.ids == dataset.ids and log_mels.texts == dataset.texts
  for i in (3, 0):
    record, expected = log_mels[i], whisper_log_mel(dataset[i]['audio'])
    assert record['id'] == dataset.ids[i] and record['text'] == dataset.texts[i]
    np.testing.assert_array_equal(record['frames'], expected)


@pytest.mark.parametrize('copies', [1, 3])
def test_lengths_are_known_before_reading(dataset, config, copies):
  log_mels = LogMelCorpus(
    dataset, config, AugmentationConfig(STRONG, copies=copies, seed=5)
  )
  assert len(log_mels) == copies * len(dataset)
  read = log_mels.read(range(len(log_mels)))
  lengths = [-(-len(record['frames']) // 2) for record in read]
  assert log_mels.lengths.tolist() == lengths
  assert [record['id'] for record in read] == log_mels.ids == dataset.ids * copies


def test_copies_differ_and_reading_is_deterministic(dataset, config):
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig(STRONG, copies=2, seed=5))
  plain, augmented = log_mels[2]['frames'], log_mels[2 + len(dataset)]['frames']
  np.testing.assert_array_equal(plain, whisper_log_mel(dataset[2]['audio']))
  assert len(plain) != len(augmented) or np.abs(plain - augmented).max() > 0.01
  np.testing.assert_array_equal(augmented, log_mels[2 + len(dataset)]['frames'])


def test_epochs_differ_except_in_length(dataset, config):
  masking = Masking(mel_masks=1, mel_width=5, time_masks=1, time_share=0.1)
  for augmentation in (
    AugmentationConfig(STRONG, seed=5),
    AugmentationConfig(masking=masking, seed=5),
  ):
    log_mels = LogMelCorpus(dataset, config, augmentation)
    first, again, second = (
      log_mels.read([4], epoch)[0]['frames'] for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == second.shape and np.abs(first - second).max() > 0.01


def test_features_are_those_of_the_encoder(dataset):
  for name, log_mel in (('kaldi', kaldi_log_mel), ('parakeet', parakeet_log_mel)):
    config = ConformerConfig(**SIZES | {'num_mel_bins': 80}, features=name)
    log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
    frames = log_mels[3]['frames']
    np.testing.assert_array_equal(frames, log_mel(dataset[3]['audio']))
    assert log_mels.lengths[3] == -(-len(frames) // 8)


CONFORMER = ConformerConfig(**SIZES | {'num_mel_bins': 80})


class DamagedDataset:
  """A dataset with some records that cannot be read."""

  def __init__(self, dataset, damaged):
    self.dataset, self.damaged = dataset, damaged

  def __getattr__(self, name):
    return getattr(self.dataset, name)

  def __len__(self):
    return len(self.dataset)

  def __getitems__(self, indices):
    for i in indices:
      if i in self.damaged:
        raise RecordError(f'shard: record {i}: CRC mismatch')
    return self.dataset.__getitems__(indices)


def test_unreadable_records_are_left_out_of_their_batch(dataset, caplog, monkeypatch):
  log_mels = LogMelCorpus(dataset, CONFORMER, AugmentationConfig())
  monkeypatch.setattr(log_mels, '_dataset', DamagedDataset(dataset, {1, 4}))
  batch = BatchPlan(
    ((3, 1), (4,), (0,)), rows=4, length=60, max_frames=30, max_per_row=2
  )
  plan, packed = load_packed(log_mels, batch)
  readable = batch._replace(utterances=((3,), (), (0,)))
  assert plan == readable
  undamaged = LogMelCorpus(dataset, CONFORMER, AugmentationConfig())
  _, expected = load_packed(undamaged, readable)
  jax.tree.map(np.testing.assert_array_equal, packed, expected)
  assert re.search(r'shard: record 1: CRC mismatch; .*\b0 others', caplog.text)
  assert log_mels.broken == {1, 4}
  with pytest.raises(RecordError, match=r'none of the 2\b'):
    load_packed(log_mels, BatchPlan(((4, 1),), 1, 60, 30, 2))


def test_too_many_unreadable_records_raise(dataset, monkeypatch):
  log_mels = LogMelCorpus(dataset, CONFORMER, AugmentationConfig())
  monkeypatch.setattr(log_mels, '_dataset', DamagedDataset(dataset, {2, 5, 6}))
  monkeypatch.setattr('acl_jax.batches.log_mels.MAX_BROKEN', 2)
  batch = BatchPlan(((2, 5, 0), (6,)), rows=2, length=90, max_frames=30, max_per_row=3)
  with pytest.raises(RecordError, match=r'record 6: .*\b3 .*limit is 2'):
    load_packed(log_mels, batch)
