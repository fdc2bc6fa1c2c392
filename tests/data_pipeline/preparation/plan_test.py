# SPDX-License-Identifier: Apache-2.0
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.corpora import BadUtterance, Utterance
from data_pipeline.preparation import plan

# File names may contain any byte.
NAMES = st.text(st.characters(exclude_characters='\0/'), min_size=1, max_size=8)
OPTIONAL = st.none() | st.text(max_size=8)
UTTERANCES = st.builds(
  Utterance,
  st.text(max_size=8),
  NAMES.map(pathlib.Path),
  st.text(st.characters(exclude_categories=()), max_size=8),
  OPTIONAL,
  OPTIONAL,
  OPTIONAL,
  st.none() | st.tuples(st.integers(0), st.integers(0)),
)
CORPORA = st.lists(
  UTTERANCES | st.builds(BadUtterance, NAMES, NAMES, NAMES), max_size=9
)


@settings(max_examples=50)
@given(utterances=CORPORA, size=st.integers(1, 4))
def test_plan_holds_all_utterances_in_order(tmp_path_factory, utterances, size):
  folder = tmp_path_factory.mktemp('plan') / 'plan'
  shard_plan = plan.plan_shards(iter(utterances), folder, size)
  parts = [shard_plan.read(part) for part in range(shard_plan.parts)]
  assert [utterance for part in parts for utterance in part] == utterances
  assert shard_plan.utterances == len(utterances)
  assert all(len(part) == size for part in parts[:-1])
  assert folder.exists() == bool(utterances)


def test_old_plan_is_replaced_and_parts_are_written_immediately(tmp_path):
  utterances = [BadUtterance(str(i), 'text', 'none') for i in range(5)]
  plan.plan_shards(utterances, tmp_path / 'plan', 1)

  def listing():
    yield from utterances[:3]
    assert sorted(p.name for p in (tmp_path / 'plan').iterdir()) == ['00000.jsonl']
    yield utterances[3]

  assert plan.plan_shards(listing(), tmp_path / 'plan', 2).parts == 2
  assert len(list((tmp_path / 'plan').iterdir())) == 2


def test_too_many_shards_are_rejected(tmp_path, monkeypatch):
  monkeypatch.setattr(plan, 'MAX_PARTS', 2)
  utterances = [BadUtterance(str(i), 'text', 'none') for i in range(5)]
  with pytest.raises(ValueError, match=r'--shard_size=2 .*\b2 shards'):
    plan.plan_shards(utterances, tmp_path / 'plan', 2)
