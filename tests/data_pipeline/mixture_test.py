# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.buckets import BucketOrder
from data_pipeline.id_hashes import hash_ids
from data_pipeline.mixture import Corpora, Mixture
from data_pipeline.packing import PackedOrder
from data_pipeline.records import Dataset

LENGTHS = np.random.default_rng(0).integers(3, 40, (60, 2))


def orders():
  return [
    PackedOrder(LENGTHS, (50, 60), 2, 0),
    BucketOrder(LENGTHS[:, 0], (20, 40), 80, 1),
  ]


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
def test_corpora_keep_their_order_and_weight(first, second, steps):
  separate = orders()
  mixed = Mixture(separate, (float(first), float(second)))
  counts = Counter()
  for step in range(steps):
    batch = mixed[step]
    corpus = int(batch.max_per_row == 1)
    assert batch == separate[corpus][counts[corpus]]
    counts[corpus] += 1
  assert counts[0] == pytest.approx(steps * first / (first + second), abs=1)


def test_distant_step():
  mixed = Mixture(orders(), (0.3, 0.7))
  assert mixed[10**9] == Mixture(orders(), (0.3, 0.7))[10**9]
  assert len(mixed) > 10**9


def test_zero_weight_is_rejected():
  with pytest.raises(ValueError, match=r'weights.*\[1.0, 0.0\]'):
    Mixture(orders(), (1.0, 0.0))


@pytest.fixture(scope='module')
def other(tiny_world, tmp_path_factory):
  """The tiny corpus with other ids, prepared."""
  from data_pipeline.prepare import prepare

  folder = tmp_path_factory.mktemp('other')
  corpus = tiny_world / 'corpus'
  for path in corpus.glob('*.flac'):
    (folder / path.name).hardlink_to(path)
  manifest = (corpus / 'manifest.jsonl').read_text().replace('"id": "u', '"id": "v')
  (folder / 'manifest.jsonl').write_text(manifest)
  prepare('manifest', folder / 'manifest.jsonl', folder / 'prepared')
  return folder / 'prepared'


def test_corpora_are_concatenated(tiny_world, other):
  folders = [tiny_world / 'prepared', other]
  parts, both = [Dataset(folder) for folder in folders], Corpora(folders)
  count = len(parts[0])
  assert len(both) == 2 * count
  assert [*both.ids] == [*parts[0].ids, *parts[1].ids]
  assert [*both.texts] == [*parts[0].texts] * 2
  np.testing.assert_array_equal(both.seconds, np.tile(parts[0].seconds, 2))
  assert both.corpus_indices(hash_ids(['v3', 'u1', 'u2'])).tolist() == [1, 0, 0]
  wanted = [count + 2, 1, 0, count, 2]
  for index, record in zip(wanted, both.__getitems__(wanted), strict=True):
    part = parts[index // count][index % count]
    assert record['id'] == part['id'] == both.ids[index]
    np.testing.assert_array_equal(record['audio'], part['audio'])


def test_id_in_two_corpora_is_rejected(tiny_world, other):
  folder = tiny_world / 'prepared'
  with pytest.raises(ValueError, match=rf"{folder}: id 'u\d'.*{folder}"):
    Corpora([folder, folder])
