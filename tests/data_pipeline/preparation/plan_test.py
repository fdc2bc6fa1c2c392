# SPDX-License-Identifier: Apache-2.0
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.corpora import BadUtterance, Utterance
from data_pipeline.preparation import plan

# Names of files may hold any byte.
NAMES = st.text(st.characters(exclude_characters='\0/'), min_size=1, max_size=8)
MAYBE = st.none() | st.text(max_size=8)
UTTERANCES = st.builds(
  Utterance,
  st.text(max_size=8),
  NAMES.map(pathlib.Path),
  st.text(st.characters(exclude_categories=()), max_size=8),
  MAYBE,
  MAYBE,
  MAYBE,
  st.none() | st.tuples(st.integers(0), st.integers(0)),
)
ITEMS = st.lists(UTTERANCES | st.builds(BadUtterance, NAMES, NAMES, NAMES), max_size=9)


@given(items=ITEMS, size=st.integers(1, 4))
def test_a_plan_holds_all_in_order(tmp_path_factory, items, size):
  folder = tmp_path_factory.mktemp('plan') / 'plan'
  written = plan.plan_shards(iter(items), folder, size)
  parts = [written.read(part) for part in range(written.parts)]
  assert [item for part in parts for item in part] == items
  assert written.utterances == len(items)
  assert all(len(part) == size for part in parts[:-1])
  assert folder.exists() == bool(items)


def test_an_old_plan_is_replaced_and_nothing_is_read_ahead(tmp_path):
  items = [BadUtterance(str(i), 'text', 'none') for i in range(5)]
  plan.plan_shards(items, tmp_path / 'plan', 1)

  def listing():
    yield from items[:3]
    assert sorted(p.name for p in (tmp_path / 'plan').iterdir()) == ['00000.jsonl']
    yield items[3]

  assert plan.plan_shards(listing(), tmp_path / 'plan', 2).parts == 2
  assert len(list((tmp_path / 'plan').iterdir())) == 2


def test_more_shards_than_their_names_can_count(tmp_path, monkeypatch):
  monkeypatch.setattr(plan, 'MAX_PARTS', 2)
  items = [BadUtterance(str(i), 'text', 'none') for i in range(5)]
  with pytest.raises(ValueError, match='--shard_size=2 makes more than 2 shards'):
    plan.plan_shards(items, tmp_path / 'plan', 2)
