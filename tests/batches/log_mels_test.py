# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax import build
from acl_jax.batches.log_mels import AugmentationConfig, LogMelCorpus, load_packed
from acl_jax.models.conformer import ConformerConfig
from data_pipeline.augment import Augmentation, Masking
from data_pipeline.batches import BatchPlan
from data_pipeline.container import RecordError
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
  return build.load_encoder(load_config(tiny_world)).config


def test_unchanged_they_are_those_of_the_recordings(dataset, config):
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
  assert log_mels.ids == dataset.ids and log_mels.texts == dataset.texts
  for i in (3, 0):
    found = log_mels[i]
    assert found['id'] == dataset.ids[i] and found['text'] == dataset.texts[i]
    np.testing.assert_array_equal(found['frames'], whisper_log_mel(dataset[i]['audio']))


@pytest.mark.parametrize('copies', [1, 3])
def test_lengths_are_known_before_anything_is_read(dataset, config, copies):
  log_mels = LogMelCorpus(
    dataset, config, AugmentationConfig(MUCH, copies=copies, seed=5)
  )
  assert len(log_mels) == copies * len(dataset)
  read = log_mels.read(range(len(log_mels)))
  lengths = [-(-len(record['frames']) // 2) for record in read]
  assert log_mels.lengths.tolist() == lengths
  assert [record['id'] for record in read] == log_mels.ids == dataset.ids * copies


def test_each_copy_differs_and_each_reading_is_the_same(dataset, config):
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig(MUCH, copies=2, seed=5))
  plain, changed = log_mels[2]['frames'], log_mels[2 + len(dataset)]['frames']
  np.testing.assert_array_equal(plain, whisper_log_mel(dataset[2]['audio']))
  assert len(plain) != len(changed) or np.abs(plain - changed).max() > 0.01
  np.testing.assert_array_equal(changed, log_mels[2 + len(dataset)]['frames'])


def test_epochs_differ_in_all_but_the_length(dataset, config):
  masking = Masking(mel_masks=1, mel_width=5, time_masks=1, time_share=0.1)
  for how in (
    AugmentationConfig(MUCH, seed=5),
    AugmentationConfig(masking=masking, seed=5),
  ):
    log_mels = LogMelCorpus(dataset, config, how)
    first, again, second = (
      log_mels.read([4], epoch)[0]['frames'] for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == second.shape and np.abs(first - second).max() > 0.01


def test_each_encoder_hears_its_own_features(dataset):
  for name, log_mel in (('kaldi', kaldi_log_mel), ('parakeet', parakeet_log_mel)):
    config = ConformerConfig(**SIZES | {'num_mel_bins': 80}, features=name)
    log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
    found = log_mels[3]['frames']
    np.testing.assert_array_equal(found, log_mel(dataset[3]['audio']))
    assert log_mels.lengths[3] == -(-len(found) // 8)


CONFORMER = ConformerConfig(**SIZES | {'num_mel_bins': 80})


class Damaged:
  """A dataset of which some records cannot be read."""

  def __init__(self, dataset, broken):
    self.dataset, self.damage = dataset, broken

  def __getattr__(self, name):
    return getattr(self.dataset, name)

  def __len__(self):
    return len(self.dataset)

  def __getitems__(self, indices):
    for i in indices:
      if i in self.damage:
        raise RecordError(f'shard: record {i}: CRC mismatch')
    return self.dataset.__getitems__(indices)


def test_broken_records_are_left_out_of_their_batch(dataset, caplog, monkeypatch):
  log_mels = LogMelCorpus(dataset, CONFORMER, AugmentationConfig())
  monkeypatch.setattr(log_mels, '_dataset', Damaged(dataset, {1, 4}))
  batch = BatchPlan(((3, 1), (4,), (0,)), rows=4, length=60, longest=30, per_row=2)
  kept, laid = load_packed(log_mels, batch)
  assert kept.utterances == ((3,), (), (0,))
  expected = BatchPlan(((3,), (), (0,)), rows=4, length=60, longest=30, per_row=2)
  whole = load_packed(LogMelCorpus(dataset, CONFORMER, AugmentationConfig()), expected)[
    1
  ]
  for ours, theirs in zip(laid, whole, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert 'shard: record 1: CRC mismatch; it is left out, as are 0 others' in caplog.text
  assert log_mels.broken == {1, 4}
  with pytest.raises(RecordError, match='none of the 2 recordings of a batch can be'):
    load_packed(log_mels, BatchPlan(((4, 1),), 1, 60, 30, 2))


def test_too_many_broken_records_end_it(dataset, monkeypatch):
  log_mels = LogMelCorpus(dataset, CONFORMER, AugmentationConfig())
  monkeypatch.setattr(log_mels, '_dataset', Damaged(dataset, {2, 5, 6}))
  monkeypatch.setattr('acl_jax.batches.log_mels.MAX_BROKEN', 2)
  batch = BatchPlan(((2, 5, 0), (6,)), rows=2, length=90, longest=30, per_row=3)
  with pytest.raises(RecordError, match='record 6: .* 3 are broken, the limit is 2'):
    load_packed(log_mels, batch)
