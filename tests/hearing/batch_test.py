# SPDX-License-Identifier: Apache-2.0
"""Recordings heard in batches are heard as alone."""

import numpy as np
import pytest

from acl_jax.hearing import batch
from acl_jax.hearing.batch import hear_all
from acl_jax.hearing.pieces import Recogniser
from tests.hearing.conftest import noise

SECONDS = (0.9, 5.7, 1.8, 0.3, 2.4, 2.9, 0.2)  # windows have 2.5 s or 3 s


@pytest.mark.parametrize('max_rows', [2, 5])
def test_a_batch_is_heard_as_its_recordings(model, make_hearing, monkeypatch, max_rows):
  monkeypatch.setattr(batch, 'MAX_ROWS', max_rows)
  recordings = [noise(seconds, seed) for seed, seconds in enumerate(SECONDS)]
  recordings.append(np.zeros(16_000, np.float32))
  heard = dict(hear_all(make_hearing(model), recordings))
  assert sorted(heard) == [*range(len(recordings))]
  assert sum(len(each.embeddings) for each in heard.values()) > 20
  alone = make_hearing(model)
  for index, samples in enumerate(recordings):
    expected, actual = alone.hear(samples), heard[index]
    np.testing.assert_allclose(actual.embeddings, expected.embeddings, atol=1e-5)
    for name in ('content', 'transcript', 'seconds', 'has_speech'):
      assert getattr(actual, name) == getattr(expected, name)
    for token, other in zip(actual.tokens, expected.tokens, strict=True):
      assert token.id == other.id
      assert (token.start, token.end) == pytest.approx((other.start, other.end))
      assert token.log_prob == pytest.approx(other.log_prob, abs=1e-5)


def test_long_windows_make_small_batches(make_model, make_hearing, monkeypatch):
  monkeypatch.setattr(batch, 'FRAMES_PER_BATCH', 650)
  rows, hear_batch = [], Recogniser.hear_batch
  monkeypatch.setattr(
    Recogniser,
    'hear_batch',
    lambda self, windows, count: (
      rows.append((len(windows), count)) or hear_batch(self, windows, count)
    ),
  )
  recordings = [noise(seconds, 1) for seconds in (1.0, 2.4, 1.1, 1.2, 1.3)]
  heard = dict(hear_all(make_hearing(make_model('attention')), recordings))
  # 240 frames are padded to 300, the encoder's limit; those of 1 s to 200.
  assert rows == [(2, 2), (3, 3)] and len(heard) == 5


def test_what_is_not_finite_is_refused_before_anything_is_heard(
  make_model, make_hearing
):
  recordings = [noise(1.0, 1), np.full(16_000, np.nan, np.float32)]
  with pytest.raises(ValueError, match='nan'):
    next(hear_all(make_hearing(make_model('attention')), recordings))
