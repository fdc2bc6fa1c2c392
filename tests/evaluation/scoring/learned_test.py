# SPDX-License-Identifier: Apache-2.0
import sys
import types

import numpy as np
import pytest

from acl_jax.evaluation.scoring import learned


def test_each_row_is_scored_once():
  asked = []

  def score(rows):
    asked.extend(rows)
    return [float(len(''.join(row))) for row in rows]

  scores = learned.CachedScores(score)
  assert scores.mean([('a', 'bc'), ('d', ''), ('a', 'bc')]) == pytest.approx(7 / 3)
  assert scores.mean([('d', ''), ('efgh', '')]) == pytest.approx(2.5)
  assert asked == [('a', 'bc'), ('d', ''), ('efgh', '')]


def test_comet_reads_source_hypothesis_and_reference(monkeypatch):
  class Model:
    def predict(self, rows, batch_size, gpus):
      assert gpus == 0
      scores = [len(r['src']) + 10.0 * len(r['mt']) + 100 * len(r['ref']) for r in rows]
      return types.SimpleNamespace(scores=scores)

  package = types.SimpleNamespace(
    download_model=lambda name: f'/models/{name}',
    load_from_checkpoint=lambda path: Model(),
  )
  monkeypatch.setitem(sys.modules, 'comet', package)
  learned.comet.cache_clear()
  assert learned.comet().mean([('a', 'bc', 'def')]) == 321
  learned.comet.cache_clear()


def test_bert_score_is_the_rescaled_f1(monkeypatch):
  class Scorer:
    def __init__(self, lang, rescale_with_baseline):
      assert (lang, rescale_with_baseline) == ('en', True)

    def score(self, hypotheses, references):
      f1 = [len(h) / len(r) for h, r in zip(hypotheses, references, strict=True)]
      return None, None, np.array(f1)

  package = types.SimpleNamespace(BERTScorer=Scorer)
  monkeypatch.setitem(sys.modules, 'bert_score', package)
  learned.bert_score.cache_clear()
  assert learned.bert_score().mean([('a', 'bc'), ('d', 'efgh')]) == 0.375
  learned.bert_score.cache_clear()


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'comet', None)
  learned.comet.cache_clear()
  with pytest.raises(ValueError, match='unbabel-comet is not installed'):
    learned.comet()
