# SPDX-License-Identifier: Apache-2.0
"""A step that is compiled for TPUs nobody has: what is said of it."""

import dataclasses
import json

import pytest

from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import slices, topologies
from acl_jax.tpu.planning import flops, report, shapes, steps, tables
from acl_jax.tpu.planning.report import PlanRequest
from tests.tiny_plan import tiny_config

KEYS = (
  *('topology', 'chips', 'program', 'mesh', 'llm', 'remat', 'rows_per_chip'),
  *('llm_tokens_per_chip', 'parameters', 'compile_seconds', 'hbm_bytes_per_chip'),
  *('hbm_capacity_bytes', 'fits', 'advice', 'hbm_bytes_of', 'collectives'),
  *('collective_bytes', 'flops_per_llm_token_over_n', 'estimate', 'assumed'),
  *('question', 'versions'),
)


@pytest.fixture(scope='module')
def question():
  config = tiny_config()
  config.encoder.trains = False  # half as much to compile
  return PlanRequest(config, slices.parse_slice('v5e:2x2'), rows_per_chip=2)


@pytest.fixture(scope='module')
def counted(question):
  return flops.of_step(question.config, steps.train)


@pytest.fixture(scope='module')
def plan(question, counted):
  return report.make_plan(question, counted)


def test_golden_keys(plan):
  assert tuple(plan) == KEYS
  assert tuple(json.loads(json.dumps(plan))) == KEYS


def test_it_fits_and_says_what_fills_the_memory(plan):
  assert plan['fits'] and plan['advice'] is None
  parts = plan['hbm_bytes_of']
  assert set(parts) == {'llm', 'trainable', 'optimizer', 'batch', 'temporaries'}
  assert sum(parts.values()) == plan['hbm_bytes_per_chip'] > 0
  # Moments of what trains, and nothing of what is frozen.
  assert parts['optimizer'] == pytest.approx(2 * parts['trainable'], abs=64)


def test_the_batch_is_that_of_the_chips(plan):
  assert plan['chips'] == 4 and plan['rows_per_chip'] == 2
  assert plan['llm_tokens_per_chip'] == 2 * 128
  assert plan['mesh'] == {'data': 1, 'fsdp': 2, 'tensor': 2}


def test_pieces_of_the_llm_travel(plan):
  assert plan['collectives']['all-gather'] > 0
  assert set(plan['collectives']) == set(plan['collective_bytes'])


def test_estimates_follow_from_the_figures_that_they_name(plan):
  estimate, given = plan['estimate'], plan['estimate']['from']
  bounds = estimate['roofline_seconds']
  assert bounds['compute'] == given['flops'] / given['flops_per_chip_and_second']
  seconds = max(bounds.values()) / given['share_of_the_roofline']
  assert estimate['step_seconds'] == seconds
  hours = given['audio_seconds'] / 3_600 / seconds
  assert estimate['audio_hours_per_second'] == pytest.approx(hours)
  dollars = given['dollars_per_chip_hour'] * plan['chips'] * seconds / 3_600
  per_thousand = 1_000 * dollars / (given['audio_seconds'] / 3_600)
  assert estimate['dollars_per_1000_audio_hours'] == pytest.approx(per_thousand)


def test_it_is_a_line_and_a_row(plan):
  line = tables.line(plan)
  assert line.startswith('v5e:2x2, fsdp 2 tensor 2, remat dots, 2 rows a chip:')
  assert line.endswith('fits')
  rows = tables.markdown([plan, plan]).splitlines()
  assert len(rows) == 4 and len({row.count('|') for row in rows}) == 1


def test_a_layer_costs_the_same_however_many_there_are(question, counted):
  deeper = flops.with_layers(question.config, {'llama': 4})
  found = flops.of_step(deeper, steps.train)
  assert found.per_llm_token_over_n == pytest.approx(counted.per_llm_token_over_n)
  layer = flops.parameters_of_layer(shapes.llama_of(deeper).config)
  more = found.of_row - counted.of_row
  assert more == pytest.approx(counted.per_llm_token_over_n * layer * 128)


@pytest.mark.parametrize('program', sorted(steps.PROGRAMS))
def test_every_program_has_a_step_for_tpus(program):
  mesh = make_mesh(
    tiny_config().mesh.to_dict(),
    topologies.topology_devices(slices.parse_slice('v5e:2x2')),
  )
  step = steps.PROGRAMS[program](tiny_config(), mesh, 5)
  assert step.rows == 6  # two shares
  assert set(step.passes) <= {*step.arguments, 'temporaries'}
  assert 'sharding' in step.lower().as_text()


def test_an_encoder_that_trains_is_counted_too():
  shallow, deep = (
    flops.of_step(flops.with_layers(tiny_config(), {'encoder': n}), steps.pretrain)
    for n in (1, 2)
  )
  assert shallow.per_llm_token_over_n is None
  assert shallow.of_row < deep.of_row < 2 * shallow.of_row


def test_other_questions_have_other_fingerprints(question):
  others = [
    dataclasses.replace(question, **{name: value})
    for name, value in (
      ('rows_per_chip', 3),
      ('program', 'pretrain'),
      ('price', 2.0),
      ('slice', slices.parse_slice('v5e:4x4')),
      ('config', flops.with_layers(question.config, {'llama': 4})),
    )
  ]
  prints = {each.fingerprint for each in [question, *others]}
  assert len(prints) == 6
  assert dataclasses.replace(question).fingerprint in prints


def test_an_axis_that_does_not_divide_is_said(question, counted):
  config = tiny_config()
  config.mesh.tensor = 4
  with pytest.raises(ValueError, match=r'of 2 is no multiple of 4'):
    report.make_plan(dataclasses.replace(question, config=config), counted)


def test_what_has_no_room_is_not_even_compiled(question, counted):
  config = tiny_config()
  config.llama.sizes.hidden_size = 1 << 14
  config.llama.sizes.vocab_size = 1 << 20
  found = report.make_plan(dataclasses.replace(question, config=config), counted)
  assert not found['fits'] and found['compile_seconds'] == 0
  assert found['hbm_bytes_per_chip'] == sum(found['hbm_bytes_of'].values())
  assert found['collectives'] is None and 'a larger slice' in found['advice']
  assert tables.line(found).endswith('does not fit')


@pytest.mark.parametrize(
  'parts, change, said',
  [
    (dict(llm=9, temporaries=1), dict(), 'a larger slice'),
    (dict(llm=9, temporaries=1), {'llama.sharding': 'replicated'}, "sharding='fsdp'"),
    (dict(llm=1, temporaries=9), dict(), "remat='full'"),
    (dict(llm=1, temporaries=9), {'response.remat': 'full'}, 'fewer --rows_per_chip'),
  ],
)
def test_what_to_change_of_a_config_over_capacity(question, parts, change, said):
  config = tiny_config()
  config.update_from_flattened_dict(change)
  assert said in report.advice(dataclasses.replace(question, config=config), parts)
