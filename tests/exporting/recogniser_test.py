# SPDX-License-Identifier: Apache-2.0
"""A pretrained Conformer becomes Transformers' own recogniser."""

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from ml_collections import ConfigDict

from acl_jax.export import export
from acl_jax.text.ctc_vocabulary import Vocabulary, train_vocabulary
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.features import parakeet_log_mel
from tests import tiny_conformer
from tests.exporting.conftest import sounds

TEXTS = ['yes no', 'go on', 'stop now', "don't go left or right"]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """What `pretrain` leaves: an encoder with a CTC head, and its vocabulary."""
  workdir = tmp_path_factory.mktemp('pretrained')
  tiny_conformer.oracle().save_pretrained(workdir / 'encoder')
  return workdir


def config():
  return ConfigDict({'encoder': {'kind': 'conformer'}})


def test_transformers_alone_recognises(tmp_path, monkeypatch):
  workdir = tmp_path / 'workdir'
  encoder = workdir / 'encoder'
  encoder.mkdir(parents=True)
  train_vocabulary(TEXTS * 9, 21, encoder / 'tokenizer.model')
  vocabulary = Vocabulary(encoder)
  monkeypatch.setattr(tiny_conformer, 'VOCABULARY', len(vocabulary) + 1)
  tiny_conformer.oracle().save_pretrained(encoder)
  export(config(), tmp_path / 'recogniser', str(workdir))
  model = transformers.AutoModelForCTC.from_pretrained(tmp_path / 'recogniser').eval()
  processor = transformers.AutoProcessor.from_pretrained(tmp_path / 'recogniser')
  assert type(model).__name__ == 'ParakeetForCTC'
  assert {path.suffix for path in (tmp_path / 'recogniser').iterdir()} == {
    *('.json', '.md', '.safetensors')
  }
  (sound,) = sounds(30_000)
  inputs = processor(sound, sampling_rate=16_000)
  mel = parakeet_log_mel(sound, tiny_conformer.MELS)
  theirs = inputs['input_features'][0][: len(mel)]
  np.testing.assert_allclose(theirs, mel, atol=2e-3)
  ours = load_conformer(encoder)
  frames, valid = ours(jnp.asarray(mel[None]), jnp.ones((1, len(mel)), bool))
  logits = model(**inputs).logits[0, : frames.shape[1]]
  np.testing.assert_allclose(logits, ours.logits(frames)[0], atol=5e-3)
  heard = np.asarray(ours.greedy(frames, valid))[0]
  said = processor.batch_decode(model(**inputs).logits.argmax(-1))
  assert said[0].strip() == vocabulary.decode(heard[heard >= 0].tolist())
  for text in TEXTS:
    assert processor.tokenizer(text)['input_ids'] == vocabulary.encode(text)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'checkpoint': None}, '--checkpoint is missing'),
    ({'kind': 'whisper'}, "kind is 'whisper'; known: conformer"),
    ({}, 'neither tokenizer.model nor tokenizer.json'),
  ],
)
def test_what_cannot_be_exported_is_refused(change, message, workdir, tmp_path):
  made = config()
  made.encoder.kind = change.get('kind', 'conformer')
  checkpoint = change.get('checkpoint', str(workdir))
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    export(made, tmp_path / 'out', checkpoint)
  assert list(tmp_path.iterdir()) == []
