# SPDX-License-Identifier: Apache-2.0
"""Collectives are found in the text of compiled programs, and counted as they run."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.tpu.planning import hlo

# Shortened from what libtpu writes.
TEXT = Path(__file__).with_name('program.hlo').read_text()


@pytest.fixture(scope='module')
def found():
  return {each.kind: each for each in hlo.collectives(TEXT)}


def test_each_is_counted_once_however_often_it_is_written():
  assert hlo.counted(hlo.collectives(TEXT)) == {
    'all-gather': 1,
    'all-reduce': 1,
    'collective-permute': 1,
    'reduce-scatter': 1,
  }


def test_those_in_a_loop_run_in_each_of_its_rounds(found):
  assert found['all-gather'].times == 5
  assert found['all-reduce'].times == found['reduce-scatter'].times == 1
  assert found['all-gather'].source == 'jit(step)/while/body/dot_general'


def test_groups_are_read_however_they_are_written(found):
  groups = {kind: each.group for kind, each in found.items()}
  assert groups == {
    'all-gather': 16,
    'all-reduce': 4,
    'reduce-scatter': 8,
    'collective-permute': 0,
  }


def test_what_a_chip_receives(found):
  assert found['all-gather'].received(32) == 5 * 32 * 3 * 2 * 15 // 16
  assert found['all-reduce'].received(32) == 2 * 6 * 4 * 3 // 4  # the largest of two
  assert found['reduce-scatter'].received(32) == 2 * 4 * 7
  assert found['collective-permute'].received(32) == 4 * 4


@pytest.mark.parametrize(
  'text, bits',
  [('pred', 8), ('s4', 4), ('bf16', 16), ('f8e4m3fn', 8), ('c64', 64), ('u32', 32)],
)
def test_bytes_of_every_type(text, bits):
  [array] = hlo.arrays(f'{text}[3,5]{{1,0:T(8,128)S(1)}}')
  assert (array.shape, array.bytes) == ((3, 5), math.ceil(15 * bits / 8))


names = st.text('abcxyz_.-0189', min_size=1, max_size=12)


@given(
  st.sampled_from(hlo.KINDS),
  st.lists(st.integers(1, 999), max_size=4),
  st.integers(1, 99),
  names,
)
def test_any_collective_is_found(kind, shape, channel, name):
  dims = ','.join(map(str, shape))
  line = f'  %{name} = bf16[{dims}]{{0:T(8,128)(2,1)}} {kind}(%x), channel_id={channel}'
  text = f'ENTRY %main (p: f32[]) -> f32[] {{\n{line}, metadata={{op_name="a b"}}\n}}\n'
  [found] = hlo.collectives(text)
  assert (found.kind, found.channel, found.source) == (kind, channel, 'a b')
  assert found.result.shape == tuple(shape)


@given(st.text(max_size=300))
def test_any_other_text_has_none(text):
  assert hlo.collectives(text) == []


@given(st.lists(st.sampled_from([*TEXT.splitlines(), '}', '']), max_size=60))
def test_lines_in_any_order_are_read(lines):
  for each in hlo.collectives('\n'.join(lines)):
    assert each.kind in hlo.KINDS and each.times >= 1
