# SPDX-License-Identifier: Apache-2.0
"""Pretrained Conformers exported as Transformers' own ParakeetForCTC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from acl_jax.export import export
from acl_jax.text.ctc_vocabulary import Vocabulary, train_vocabulary
from acl_jax.weights.parakeet import load_conformer
from data_pipeline.features import parakeet_log_mel
from tests import tiny_conformer
from tests.exporting.conftest import noise_clips
from tests.tiny_plan import tiny_pretrain_config

TEXTS = ['yes no', 'go on', 'stop now', "don't go left or right"]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir of `pretrain`, but without a vocabulary."""
  workdir = tmp_path_factory.mktemp('pretrained')
  tiny_conformer.build_reference().save_pretrained(workdir / 'encoder')
  return workdir


@jax.jit
def recognise(model, log_mel):
  """Return the logits [1 u v] of one utterance and its greedy classes [1 u]."""
  frames, frame_mask = model(log_mel, jnp.ones(log_mel.shape[:2], bool))
  return model.logits(frames), model.greedy(frames, frame_mask)


def test_transformers_recognises_the_same(tmp_path, monkeypatch):
  workdir = tmp_path / 'workdir'
  encoder = workdir / 'encoder'
  encoder.mkdir(parents=True)
  train_vocabulary(TEXTS * 9, 21, encoder / 'tokenizer.model')
  vocabulary = Vocabulary(encoder)
  monkeypatch.setattr(tiny_conformer, 'VOCABULARY', len(vocabulary) + 1)
  tiny_conformer.build_reference().save_pretrained(encoder)
  output = tmp_path / 'recogniser'
  export(tiny_pretrain_config(), output, str(workdir))
  model = transformers.AutoModelForCTC.from_pretrained(output).eval()
  processor = transformers.AutoProcessor.from_pretrained(output)
  assert type(model).__name__ == 'ParakeetForCTC'
  suffixes = {path.suffix for path in output.iterdir()}
  assert suffixes == {'.json', '.md', '.safetensors'}
  [clip] = noise_clips(30_000)
  inputs = processor(clip, sampling_rate=16_000)
  log_mel = parakeet_log_mel(clip, tiny_conformer.MELS)
  features = inputs['input_features'][0][: len(log_mel)]
  np.testing.assert_allclose(features, log_mel, atol=2e-3)
  expected, [classes] = recognise(load_conformer(encoder), jnp.asarray(log_mel[None]))
  logits = model(**inputs).logits
  np.testing.assert_allclose(logits[:, : expected.shape[1]], expected, atol=5e-3)
  [transcript] = processor.batch_decode(logits.argmax(-1))
  assert transcript.strip() == vocabulary.decode(classes[classes >= 0].tolist())
  for text in TEXTS:
    assert processor.tokenizer(text)['input_ids'] == vocabulary.encode(text)


@pytest.mark.parametrize(
  'has_checkpoint, match',
  [
    (False, '--checkpoint'),
    (True, r'encoder: .*tokenizer\.model.*tokenizer\.json'),
  ],
)
def test_incomplete_checkpoint_is_refused(has_checkpoint, match, workdir, tmp_path):
  checkpoint = str(workdir) if has_checkpoint else None
  with pytest.raises((ValueError, FileNotFoundError), match=match):
    export(tiny_pretrain_config(), tmp_path / 'out', checkpoint)
  assert list(tmp_path.iterdir()) == []
