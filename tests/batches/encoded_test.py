# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools
import json
import logging
import os
import re
import signal
import time

import jax
import numpy as np
import pytest
import soundfile

from acl_jax import build
from acl_jax.batches import encoded
from acl_jax.batches.encoded import EncodedCorpus, encode_corpus, parameters_sha256
from acl_jax.config.sections import AugmentationConfig
from acl_jax.runtime.program import Preempted
from data_pipeline.augment import Augmentation
from data_pipeline.features import whisper_log_mel
from data_pipeline.prepare import prepare
from data_pipeline.records import Dataset
from tests.tiny_world import load_config

STRONG = Augmentation(0.1, 0.5, (5.0, 30.0), 0.25)


@pytest.fixture(scope='module')
def encoder(tiny_world):
  return build.load_encoder(load_config(tiny_world).encoder)


@pytest.fixture(scope='module')
def dataset(tiny_world):
  return Dataset(tiny_world / 'prepared')


def test_effects_that_are_off_are_not_in_the_description(encoder, dataset, tmp_path):
  """Frames stay valid when a version adds an effect."""
  encode_corpus(encoder, dataset, tmp_path / 'off', AugmentationConfig(STRONG))
  info = json.loads((tmp_path / 'off/frames.json').read_text())
  assert info['augmentation'] == {
    'speed': 0.1,
    'noise_share': 0.5,
    'noise_snr': [5.0, 30.0],
    'telephone_share': 0.25,
  }
  babble = AugmentationConfig(dataclasses.replace(STRONG, babble_share=0.5))
  with pytest.raises(ValueError, match="'babble_share': 0.5"):
    encode_corpus(encoder, dataset, tmp_path / 'off', babble)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
  monkeypatch.setattr(encoded, 'SHARD_SIZE', 4)


def read_files(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_frames_are_those_of_each_utterance_alone(encoder, dataset, tmp_path):
  encoded = encode_corpus(encoder, dataset, tmp_path, AugmentationConfig())
  assert [*encoded.ids] == [*dataset.ids] and [*encoded.texts] == [*dataset.texts]
  assert encoded.lengths.tolist() == [15 + -(-5 * i // 2) for i in range(9)]
  run = jax.jit(lambda log_mel, frame_mask: encoder(log_mel, frame_mask)[0])
  for i in (8, 0, 5):
    mel = whisper_log_mel(dataset[i]['audio'])
    padded = np.zeros((1, 100, 80), np.float32)
    padded[0, : len(mel)] = mel
    expected = run(padded, np.arange(100)[None] < len(mel))[0, : -(-len(mel) // 2)]
    assert encoded[i]['id'] == dataset.ids[i] and encoded[i]['text'] == dataset.texts[i]
    assert encoded[i]['frames'].dtype == np.float16
    np.testing.assert_allclose(encoded[i]['frames'], expected, rtol=2e-3, atol=1e-3)
  together = encoded.read([7, 2])
  np.testing.assert_array_equal(together[1]['frames'], encoded[2]['frames'])


def test_encoding_is_deterministic(encoder, dataset, tmp_path):
  encode_corpus(encoder, dataset, tmp_path / 'a', AugmentationConfig(STRONG))
  encode_corpus(encoder, dataset, tmp_path / 'b', AugmentationConfig(STRONG))
  assert read_files(tmp_path / 'a') == read_files(tmp_path / 'b')


def test_an_interrupted_run_resumes_at_the_first_missing_shard(
  encoder, dataset, tmp_path, monkeypatch
):
  expected, out = tmp_path / 'expected', tmp_path / 'out'
  encode_corpus(encoder, dataset, expected, AugmentationConfig(STRONG, seed=3))
  write, written = encoded.write_shard, []

  def fail_at_the_second(path, records):
    if written:
      raise KeyboardInterrupt
    written.append(path)
    return write(path, records)

  monkeypatch.setattr(encoded, 'write_shard', fail_at_the_second)
  with pytest.raises(KeyboardInterrupt):
    encode_corpus(encoder, dataset, out, AugmentationConfig(STRONG, seed=3))
  with pytest.raises(FileNotFoundError):
    EncodedCorpus(out)
  paths = []
  monkeypatch.setattr(
    encoded,
    'write_shard',
    lambda path, records: paths.append(path) or write(path, records),
  )
  encode_corpus(encoder, dataset, out, AugmentationConfig(STRONG, seed=3))
  assert [path.name[:12] for path in paths] == ['frames-00001', 'frames-00002']
  assert read_files(out) == read_files(expected)
  paths.clear()
  encode_corpus(encoder, dataset, out, AugmentationConfig(STRONG, seed=3))
  assert not paths


def test_preemption_ends_the_encoding_of_a_shard(
  encoder, dataset, tmp_path, monkeypatch, handled_sigterm
):
  count, run_encoder = itertools.count(1), encoded.run_encoder

  def interrupted(*args):  # in a thread of its own
    if (number := next(count)) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    if number >= 2:
      time.sleep(0.1)  # the main thread must see it before the last of nine
    return run_encoder(*args)

  with monkeypatch.context() as patch, pytest.raises(Preempted):
    patch.setattr(encoded, 'run_encoder', interrupted)
    patch.setattr(encoded, 'SHARD_SIZE', 9)
    encode_corpus(encoder, dataset, tmp_path / 'out', AugmentationConfig(), 0.5)
  assert next(count) < 9
  assert not list((tmp_path / 'out').glob('*.array_record'))
  encode_corpus(encoder, dataset, tmp_path / 'out', AugmentationConfig())
  encode_corpus(encoder, dataset, tmp_path / 'expected', AugmentationConfig())
  assert read_files(tmp_path / 'out') == read_files(tmp_path / 'expected')


def test_the_first_of_several_copies_is_not_augmented(encoder, dataset, tmp_path):
  plain = encode_corpus(encoder, dataset, tmp_path / 'plain', AugmentationConfig())
  copies = encode_corpus(
    encoder, dataset, tmp_path / 'copies', AugmentationConfig(STRONG, copies=3)
  )
  one = encode_corpus(encoder, dataset, tmp_path / 'one', AugmentationConfig(STRONG))
  n = len(plain)
  assert [*copies.ids] == [*plain.ids] * 3 and [*one.ids] == [*plain.ids]
  for i in range(n):
    # Rounding depends on the shape of the batch.
    first, second, third = (copies[i + n * copy]['frames'] for copy in range(3))
    np.testing.assert_allclose(first, plain[i]['frames'], rtol=2e-3, atol=1e-3)
    augmented = one[i]['frames']
    for other in (second, third, augmented):
      assert len(other) != len(first) or np.abs(other - first).max() > 0.01
    assert len(second) != len(third) or np.abs(second - third).max() > 0.01


@pytest.mark.parametrize(
  'change, message',
  [
    ({'seed': 1}, r'\bseed 0.*\b1\b'),
    ({'copies': 2}, r'\bcopies 1.*\b2\b'),
    ({'augmentation': None}, r'\baugmentation .*\bNone\b'),
    ({'augmentation': dataclasses.replace(STRONG, speed=0.2)}, "'speed': 0.2"),
  ],
)
def test_a_folder_with_another_augmentation_is_refused(
  encoder, dataset, tmp_path, change, message
):
  settings = {'augmentation': STRONG, 'seed': 0, 'copies': 1}
  encode_corpus(encoder, dataset, tmp_path, AugmentationConfig(**settings))
  with pytest.raises(ValueError, match=f'^{tmp_path} .*{message}'):
    encode_corpus(encoder, dataset, tmp_path, AugmentationConfig(**(settings | change)))


def test_a_folder_of_another_encoder_or_corpus_is_refused(
  encoder, dataset, tmp_path, tiny_world
):
  encode_corpus(encoder, dataset, tmp_path, AugmentationConfig())
  other = jax.tree.map(lambda w: w + 1, encoder)
  assert parameters_sha256(other) != parameters_sha256(encoder)
  with pytest.raises(ValueError, match=rf'^{tmp_path} .*\bencoder\b'):
    encode_corpus(other, dataset, tmp_path, AugmentationConfig())
  info = json.loads((tmp_path / 'frames.json').read_text())
  (tmp_path / 'frames.json').write_text(json.dumps(info | {'source': 'other'}))
  with pytest.raises(ValueError, match="source 'other'"):
    encode_corpus(encoder, dataset, tmp_path, AugmentationConfig())


def test_utterances_of_unsupported_length_are_left_out_and_logged(
  encoder, tmp_path, caplog
):
  lines, rng = [], np.random.default_rng(0)
  for i, samples in enumerate((6_000, 16_159, 16_160, 20_000, 400, 7_000)):
    soundfile.write(tmp_path / f'{i}.flac', rng.normal(size=samples) * 0.1, 16_000)
    lines.append({'audio_filepath': f'{i}.flac', 'text': 'yes', 'id': f'u{i}'})
  manifest = tmp_path / 'manifest.jsonl'
  manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  prepare('manifest', manifest, tmp_path / 'prepared')
  dataset = Dataset(tmp_path / 'prepared')
  with caplog.at_level(logging.WARNING, 'absl'):
    encoded = encode_corpus(encoder, dataset, tmp_path / 'out', AugmentationConfig())
  assert [*encoded.ids] == ['u0', 'u1', 'u4', 'u5']
  assert encoded.lengths.tolist() == [19, 50, 1, 22]
  assert encoded[1]['id'] == 'u1' and len(encoded[1]['frames']) == 50
  logged = [record.getMessage() for record in caplog.records]
  assert len(logged) == 2
  for line, id, seconds in zip(logged, ('u2', 'u3'), ('1.010', '1.250'), strict=True):
    assert re.fullmatch(rf'{id} .*\b{seconds} s.*\b0\.025\b.*\b1\b.*', line)


def test_a_folder_without_frames(tmp_path):
  with pytest.raises(FileNotFoundError, match='frames.json'):
    EncodedCorpus(tmp_path)
