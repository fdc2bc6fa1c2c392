# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools
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
from data_pipeline.loader import load_batches
from data_pipeline.packing import PackedOrder
from data_pipeline.records import Dataset
from tests.tiny_conformer import SIZES
from tests.tiny_world import load_config

STRONG = Augmentation(0.3, 0.5, (5.0, 30.0), 0.25)
QUIET = Augmentation(0.0, 0.0, (0.0, 5.0), 0.0)
NOISY = dataclasses.replace(
  STRONG,
  reverberation_share=0.5,
  babble_share=0.5,
  music_share=0.5,
  clipping_share=0.5,
  line_share=0.5,
  codec_share=0.3,
)


@pytest.fixture(scope='module')
def dataset(tiny_world):
  return Dataset(tiny_world / 'prepared')


@pytest.fixture(scope='module')
def config(tiny_world):
  return build.load_encoder(load_config(tiny_world).encoder).config


def test_without_augmentation_features_are_those_of_the_audio(dataset, config):
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
  assert [*log_mels.ids] == [*dataset.ids] and [*log_mels.texts] == [*dataset.texts]
  for i in (3, 0):
    record, expected = log_mels[i], whisper_log_mel(dataset[i]['audio'])
    assert record['id'] == dataset.ids[i] and record['text'] == dataset.texts[i]
    np.testing.assert_array_equal(record['frames'], expected)


def test_silence_counts_in_lengths_and_limits(dataset, config):
  plain = LogMelCorpus(dataset, config, AugmentationConfig())
  config = dataclasses.replace(config, trailing_silence=29)
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig())
  for i in (2, 5):
    silence = np.zeros(29 * 160, np.float32)
    padded = np.append(dataset[i]['audio'], silence)
    np.testing.assert_array_equal(log_mels[i]['frames'], whisper_log_mel(padded))
    assert log_mels.lengths[i] == -(-len(log_mels[i]['frames']) // 2)
  assert set(log_mels.lengths - plain.lengths) <= {14, 15}
  longest = max(len(plain[i]['frames']) for i in range(len(plain)))
  positions = -(-(longest + 29) // 2)
  shorter = dataclasses.replace(config, max_source_positions=positions - 1)
  assert len(LogMelCorpus(dataset, shorter, AugmentationConfig())) < len(plain)


@pytest.mark.parametrize('copies', [1, 3])
def test_lengths_are_known_before_reading(dataset, config, copies):
  log_mels = LogMelCorpus(
    dataset, config, AugmentationConfig(STRONG, copies=copies, seed=5)
  )
  assert len(log_mels) == copies * len(dataset)
  read = log_mels.read(range(len(log_mels)))
  lengths = [-(-len(record['frames']) // 2) for record in read]
  assert log_mels.lengths.tolist() == lengths
  ids = [record['id'] for record in read]
  assert ids == [*log_mels.ids] == [*dataset.ids] * copies


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
    AugmentationConfig(dataclasses.replace(QUIET, babble_share=1.0), seed=5),
    AugmentationConfig(masking=masking, seed=5),
  ):
    log_mels = LogMelCorpus(dataset, config, augmentation)
    first, again, second = (
      log_mels.read([4], epoch)[0]['frames'] for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == second.shape and np.abs(first - second).max() > 0.01


@pytest.mark.parametrize('threads', [1, 4])
def test_threads_and_restarts_do_not_change_the_augmentation(dataset, threads):
  augmentation = AugmentationConfig(NOISY, copies=2, seed=5)
  lengths = LogMelCorpus(dataset, CONFORMER, augmentation).lengths
  order = PackedOrder(lengths[:, None], (int(lengths.max()),), 3, 5)

  def load(steps, threads):
    log_mels = LogMelCorpus(dataset, CONFORMER, augmentation)
    return [
      frames.frames.copy()
      for _, frames in load_batches(
        order, functools.partial(load_packed, log_mels), steps, threads=threads
      )
    ]

  steps = range(2 * order.steps_per_epoch)
  expected = load(steps, 2)
  for start in (0, order.steps_per_epoch - 1):
    loaded = load(steps[start:], threads)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected[start:])


def test_babble_is_of_other_utterances(dataset, config, monkeypatch):
  settings = dataclasses.replace(QUIET, babble_share=1.0)
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig(settings, seed=5))
  quiet = LogMelCorpus(dataset, config, AugmentationConfig(QUIET, seed=5))
  assert np.abs(log_mels[3]['frames'] - quiet[3]['frames']).max() > 0.1
  read = []
  monkeypatch.setattr(log_mels, '_dataset', DamagedDataset(dataset, set(), read))
  for position in range(len(dataset)):
    log_mels.read([position])
    first, *others = read
    assert first == position and 3 <= len(others) <= 7 and position not in others
    read.clear()


def test_records_that_cannot_be_read_are_left_out_of_the_babble(
  dataset, config, monkeypatch
):
  settings = dataclasses.replace(QUIET, babble_share=1.0)
  log_mels = LogMelCorpus(dataset, config, AugmentationConfig(settings, seed=5))
  all_others = set(range(len(dataset))) - {3}
  quiet = LogMelCorpus(dataset, config, AugmentationConfig(QUIET, seed=5))
  monkeypatch.setattr(log_mels, '_dataset', DamagedDataset(dataset, all_others))
  np.testing.assert_array_equal(log_mels[3]['frames'], quiet[3]['frames'])
  assert not log_mels.broken


def test_a_single_utterance_has_no_babble(dataset, config):
  shortest = dataclasses.replace(config, max_source_positions=15)
  settings = AugmentationConfig(dataclasses.replace(QUIET, babble_share=0.5))
  with pytest.raises(ValueError, match=r'babble_share is 0\.5, but .* fewer than 2'):
    LogMelCorpus(dataset, shortest, settings)


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

  def __init__(self, dataset, damaged, read=None):
    self.dataset, self.damaged, self.was_read = dataset, damaged, read

  def __getattr__(self, name):
    return getattr(self.dataset, name)

  def __len__(self):
    return len(self.dataset)

  def __getitems__(self, indices):
    if self.was_read is not None:
      self.was_read += indices
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
