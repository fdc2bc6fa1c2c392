# SPDX-License-Identifier: Apache-2.0
"""Plans of steps compiled for TPUs without having any."""

import dataclasses
import json

import jax
import pytest

from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import slices, topologies
from acl_jax.tpu.planning import flops, report, shapes, steps, tables
from acl_jax.tpu.planning.report import PlanRequest
from tests.tiny_plan import tiny_config
from tests.tiny_world import change

pytestmark = pytest.mark.full  # compiles much

KEYS = (
  'topology',
  'chips',
  'program',
  'mesh',
  'llm',
  'remat',
  'rows_per_chip',
  'llm_tokens_per_chip',
  'parameters',
  'compile_seconds',
  'hbm_bytes_per_chip',
  'hbm_capacity_bytes',
  'fits',
  'advice',
  'hbm_bytes_of',
  'collectives',
  'collective_bytes',
  'flops_per_llm_token_over_n',
  'estimate',
  'assumed',
  'question',
  'versions',
)

STATE = ('trainable', 'llm')


@pytest.fixture(scope='module')
def plan_request():
  # With a frozen encoder there is half as much to compile.
  config = change(tiny_config(), **{'encoder.trains': 'none'})
  return PlanRequest(config, slices.parse_slice('v5e:2x2'), rows_per_chip=2)


@pytest.fixture(scope='module')
def counted(plan_request):
  return flops.count_step_flops(plan_request.config, steps.train)


@pytest.fixture(scope='module')
def plan(plan_request, counted):
  return report.make_plan(plan_request, counted)


def test_keys_of_a_plan(plan):
  assert tuple(plan) == KEYS
  assert tuple(json.loads(json.dumps(plan))) == KEYS


def test_a_plan_that_fits_lists_what_fills_the_memory(plan):
  assert plan['fits'] and plan['advice'] is None
  parts = plan['hbm_bytes_of']
  assert set(parts) == {'llm', 'trainable', 'optimizer', 'batch', 'temporaries'}
  assert sum(parts.values()) == plan['hbm_bytes_per_chip'] > 0
  # Two moments of each trainable parameter, and none of frozen ones.
  assert parts['optimizer'] == pytest.approx(2 * parts['trainable'], abs=64)


def test_the_batch_scales_with_the_chips(plan):
  assert plan['chips'] == 4 and plan['rows_per_chip'] == 2
  assert plan['llm_tokens_per_chip'] == 2 * 128
  assert plan['mesh'] == {'data': 1, 'fsdp': 2, 'tensor': 2}


def test_shards_of_the_llm_are_gathered(plan):
  assert plan['collectives']['all-gather'] > 0
  assert set(plan['collectives']) == set(plan['collective_bytes'])


def test_estimates_follow_from_the_figures_in_the_plan(plan):
  estimate, figures = plan['estimate'], plan['estimate']['from']
  bounds = estimate['roofline_seconds']
  assert bounds['compute'] == figures['flops'] / figures['flops_per_chip_and_second']
  seconds = max(bounds.values()) / figures['share_of_the_roofline']
  assert estimate['step_seconds'] == seconds
  hours = figures['audio_seconds'] / 3_600 / seconds
  assert estimate['audio_hours_per_second'] == pytest.approx(hours)
  dollars = figures['dollars_per_chip_hour'] * plan['chips'] * seconds / 3_600
  per_thousand = 1_000 * dollars / (figures['audio_seconds'] / 3_600)
  assert estimate['dollars_per_1000_audio_hours'] == pytest.approx(per_thousand)


def test_a_plan_is_formatted_as_a_line_and_as_a_row(plan):
  line = tables.format_line(plan)
  assert line.startswith('v5e:2x2, fsdp 2 tensor 2, remat dots, 2 rows per chip:')
  assert line.endswith('fits')
  rows = tables.format_markdown([plan, plan]).splitlines()
  assert len(rows) == 4 and len({row.count('|') for row in rows}) == 1


def test_the_cost_of_a_layer_does_not_depend_on_the_depth(plan_request, counted):
  deeper = flops.with_layers(plan_request.config, {'llama': 4})
  of_deeper = flops.count_step_flops(deeper, steps.train)
  assert of_deeper.per_llm_token_over_n == pytest.approx(counted.per_llm_token_over_n)
  layer = flops.count_layer_parameters(shapes.llama_shapes(deeper.llama).config)
  additional = of_deeper.per_row - counted.per_row
  assert additional == pytest.approx(counted.per_llm_token_over_n * layer * 128)


@pytest.mark.parametrize('program', sorted(steps.PROGRAMS))
def test_the_step_of_every_program_lowers_for_tpus(program):
  mesh = make_mesh(
    tiny_config().mesh.sizes,
    topologies.topology_devices(slices.parse_slice('v5e:2x2')),
  )
  step = steps.PROGRAMS[program](tiny_config(program), mesh, 5)
  assert step.rows == 6  # the next multiple of two shards
  assert set(step.hbm_passes) <= {*step.arguments, 'temporaries'}
  assert 'sharding' in step.lower().as_text()


def test_answers_of_the_student_are_planned(plan_request, counted):
  settings = dict(
    weight=1.0,
    refresh_every=2,
    max_new_tokens=8,
    sampling=dict(temperature=0.0, top_k=0, top_p=1.0),
  )
  changes = {'response.on_policy': settings, 'targets.top_k': 3}
  config = change(plan_request.config, **changes)
  of_both = flops.count_step_flops(config, steps.train)
  assert of_both.per_llm_token_over_n == pytest.approx(
    counted.per_llm_token_over_n, rel=0.02
  )
  assert 1.8 < of_both.per_row / counted.per_row < 2.2


def test_a_trainable_encoder_is_counted():
  shallow, deep = (
    flops.count_step_flops(
      flops.with_layers(tiny_config('pretrain'), {'encoder': n}), steps.pretrain
    )
    for n in (1, 2)
  )
  assert shallow.per_llm_token_over_n is None
  assert shallow.per_row < deep.per_row < 2 * shallow.per_row


def test_low_rank_updates_of_the_encoder_leave_the_llm_its_cost():
  lora = {'rank': 3, 'alpha': 4.0, 'dropout': 0.0, 'targets': ('q_proj', 'linear1')}
  changes = {'encoder.trains': 'lora', 'encoder.lora': lora}
  config = change(tiny_config(), **changes)
  trainable, llm = (
    {k: sum(x.size for x in jax.tree.leaves(step.arguments[k])) for k in STATE}
    for step in (steps.train(config, None, 2), steps.train(tiny_config(), None, 2))
  )
  # Two layers of width 8: q_proj to 8, two of linear1 to 12; the linear adapter.
  assert trainable['trainable'] == 2 * 3 * (8 + 8 + 2 * (8 + 12)) + 3 * 8 * 16
  assert trainable['trainable'] < llm['trainable'] and trainable['llm'] > llm['llm']
  counted, full = (
    flops.count_step_flops(flops.with_layers(c, {'encoder': 1}), steps.train)
    for c in (config, tiny_config())
  )
  assert counted.per_llm_token_over_n == pytest.approx(
    full.per_llm_token_over_n, rel=1e-3
  )
  assert counted.per_row < full.per_row


def test_other_requests_have_other_fingerprints(plan_request):
  others = [
    dataclasses.replace(plan_request, **{name: value})
    for name, value in (
      ('rows_per_chip', 3),
      ('program', 'pretrain'),
      ('price', 2.0),
      ('slice', slices.parse_slice('v5e:4x4')),
      ('config', flops.with_layers(plan_request.config, {'llama': 4})),
    )
  ]
  fingerprints = {r.fingerprint for r in [plan_request, *others]}
  assert len(fingerprints) == 6
  assert dataclasses.replace(plan_request).fingerprint in fingerprints


def test_an_axis_that_does_not_divide_is_an_error(plan_request, counted):
  config = change(tiny_config(), **{'mesh.tensor': 4})
  with pytest.raises(ValueError, match=r'heads.* 2.* 4.*tensor'):
    report.make_plan(dataclasses.replace(plan_request, config=config), counted)


def test_arguments_that_do_not_fit_are_not_compiled(plan_request, counted):
  config = change(
    tiny_config(),
    **{'llama.sizes.hidden_size': 1 << 14, 'llama.sizes.vocab_size': 1 << 20},
  )
  plan = report.make_plan(dataclasses.replace(plan_request, config=config), counted)
  assert not plan['fits'] and plan['compile_seconds'] == 0
  assert plan['hbm_bytes_per_chip'] == sum(plan['hbm_bytes_of'].values())
  assert plan['collectives'] is None and 'a larger slice' in plan['advice']
  assert tables.format_line(plan).endswith('does not fit')


@pytest.mark.parametrize(
  'parts, changes, advice',
  [
    (dict(llm=9, temporaries=1), dict(), 'a larger slice'),
    (dict(llm=9, temporaries=1), {'llama.sharding': 'replicated'}, "sharding='fsdp'"),
    (dict(llm=1, temporaries=9), dict(), "remat='full'"),
    (dict(llm=1, temporaries=9), {'response.remat': 'full'}, 'fewer --rows_per_chip'),
  ],
)
def test_advice_for_a_config_that_does_not_fit(plan_request, parts, changes, advice):
  config = change(tiny_config(), **changes)
  assert advice in report.advice(
    dataclasses.replace(plan_request, config=config), parts
  )
