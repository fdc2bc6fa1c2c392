# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from acl_jax.evaluation.babble import with_babble
from acl_jax.evaluation.examples import read_manifest
from data_pipeline.audio import AudioError, Limits


def read_all(utterances):
  return {utterance.id: utterance.read(Limits()) for utterance in utterances}


def test_noise_depends_on_ids_and_not_on_the_order(manifest):
  utterances, _ = read_manifest(manifest, None)
  first = read_all(with_babble(utterances, 7.0))
  second = read_all(with_babble(utterances[::-1], 7.0))
  assert first.keys() == second.keys() == {f'u{i}' for i in range(5)}
  for utterance in utterances:
    clean = utterance.read(Limits())
    noise = first[utterance.id] - clean
    np.testing.assert_array_equal(first[utterance.id], second[utterance.id])
    assert noise.shape == clean.shape
    snr = 10 * np.log10(np.mean(clean**2) / np.mean(noise**2))
    assert snr == pytest.approx(7, abs=0.1)


def test_an_utterance_is_not_in_its_own_babble(manifest):
  utterances, _ = read_manifest(manifest, None)
  for utterance, noisy in zip(utterances, with_babble(utterances, 3.0), strict=True):
    candidates = {candidate.id for candidate in noisy.candidates}
    assert candidates == {f'u{i}' for i in range(5)} - {utterance.id}
    assert (noisy.text, noisy.response) == (utterance.text, utterance.response)


def test_others_that_cannot_be_read(manifest):
  utterances, _ = read_manifest(manifest, None)
  noisy = with_babble(utterances, 3.0)
  for i in range(1, 4):
    (manifest.parent / f'{i}.wav').write_bytes(b'RIFF')
  assert np.abs(noisy[0].read(Limits()) - utterances[0].read(Limits())).max() > 0.01
  (manifest.parent / '4.wav').unlink()
  with pytest.raises(AudioError, match='u0: babble has no other utterance'):
    noisy[0].read(Limits())
