# SPDX-License-Identifier: Apache-2.0
"""Collectives are parsed from the text of compiled programs."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.tpu.planning import hlo

# Shortened from libtpu's output.
TEXT = Path(__file__).with_name('program.hlo').read_text()


@pytest.fixture(scope='module')
def by_kind():
  return {collective.kind: collective for collective in hlo.parse_collectives(TEXT)}


def test_a_collective_written_twice_is_counted_once():
  assert hlo.count_by_kind(hlo.parse_collectives(TEXT)) == {
    'all-gather': 1,
    'all-reduce': 1,
    'collective-permute': 1,
    'reduce-scatter': 1,
  }


def test_a_collective_in_a_loop_runs_once_per_round(by_kind):
  assert by_kind['all-gather'].executions == 5
  assert by_kind['all-reduce'].executions == by_kind['reduce-scatter'].executions == 1
  assert by_kind['all-gather'].source == 'jit(step)/while/body/dot_general'


def test_every_notation_of_replica_groups_is_parsed(by_kind):
  sizes = {kind: collective.group_size for kind, collective in by_kind.items()}
  assert sizes == {
    'all-gather': 16,
    'all-reduce': 4,
    'reduce-scatter': 8,
    'collective-permute': 0,
  }


def test_bytes_received_by_a_chip(by_kind):
  assert by_kind['all-gather'].bytes_received(32) == 5 * 32 * 3 * 2 * 15 // 16
  # Of the two arrays of its result, the larger one.
  assert by_kind['all-reduce'].bytes_received(32) == 2 * 6 * 4 * 3 // 4
  assert by_kind['reduce-scatter'].bytes_received(32) == 2 * 4 * 7
  assert by_kind['collective-permute'].bytes_received(32) == 4 * 4


@pytest.mark.parametrize(
  'text, bits',
  [('pred', 8), ('s4', 4), ('bf16', 16), ('f8e4m3fn', 8), ('c64', 64), ('u32', 32)],
)
def test_bytes_of_every_element_type(text, bits):
  [array] = hlo.parse_arrays(f'{text}[3,5]{{1,0:T(8,128)S(1)}}')
  assert (array.shape, array.bytes) == ((3, 5), math.ceil(15 * bits / 8))


names = st.text('abcxyz_.-0189', min_size=1, max_size=12)


@given(
  st.sampled_from(hlo.COLLECTIVE_KINDS),
  st.lists(st.integers(1, 999), max_size=4),
  st.integers(1, 99),
  names,
)
def test_every_kind_of_collective_is_parsed(kind, shape, channel, name):
  dims = ','.join(map(str, shape))
  line = f'  %{name} = bf16[{dims}]{{0:T(8,128)(2,1)}} {kind}(%x), channel_id={channel}'
  text = f'ENTRY %main (p: f32[]) -> f32[] {{\n{line}, metadata={{op_name="a b"}}\n}}\n'
  [collective] = hlo.parse_collectives(text)
  assert collective.kind == kind
  assert collective.channel == channel and collective.source == 'a b'
  assert collective.result.shape == tuple(shape)


@given(st.text(max_size=300))
def test_other_text_has_no_collectives(text):
  assert hlo.parse_collectives(text) == []


@given(st.lists(st.sampled_from([*TEXT.splitlines(), '}', '']), max_size=60))
def test_lines_in_any_order_are_parsed(lines):
  for collective in hlo.parse_collectives('\n'.join(lines)):
    assert collective.kind in hlo.COLLECTIVE_KINDS and collective.executions >= 1
