# SPDX-License-Identifier: Apache-2.0
"""A search tries all that may fit, nothing that cannot, and tells the fastest first."""

import pytest

from acl_jax.tpu import slices
from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.planning.search import ROWS, best_first, meshes, search
from tests.tiny_plan import tiny_config

KEPT = {'full': 1, 'dots': 3, None: 9}  # memory of a row


class Machine:
  """Instead of a compiler: so much memory, and a tensor axis of two at most."""

  def __init__(self, capacity):
    self.capacity, self.asked = capacity, []

  def __call__(self, question):
    sizes, remat = question.config.mesh, question.config.response.remat
    if sizes.tensor > 2:
      raise ValueError('an axis does not divide')
    llm = 8 if question.config.llama.sharding == 'replicated' else 1
    used = llm + KEPT[remat] * question.rows_per_chip
    self.asked.append((*sizes.values(), remat, question.rows_per_chip))
    speed = float(question.rows_per_chip + (remat is None))
    return {
      'fits': used <= self.capacity,
      'remat': remat,
      'estimate': {'audio_hours_per_second': speed},
    }


def ask(capacity):
  question = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  machine = Machine(capacity)
  return machine, list(search(question, machine))


def test_meshes_have_as_many_devices_as_the_slice():
  for llm in (True, False):
    found = list(meshes(4, llm))
    assert len(set(found)) == len(found)
    assert all(data * fsdp * tensor == 4 for data, fsdp, tensor, _ in found)
  assert {sharding for *_, sharding in meshes(4, False)} == {'replicated'}


@pytest.mark.parametrize('capacity', [9, 20, 33, 200])
def test_the_largest_batch_of_every_mesh_and_policy_is_found(capacity):
  machine, plans = ask(capacity)
  assert len(plans) == len(machine.asked) == len(set(machine.asked))
  assert not [asked for asked in machine.asked if asked[2] > 2]
  for policy, kept in KEPT.items():
    fits = [rows for rows in ROWS if 1 + kept * rows <= capacity]
    tried = {
      asked[-1]: plan['fits']
      for asked, plan in zip(machine.asked, plans, strict=True)
      if asked[:4] == (1, 4, 1, policy)
    }
    assert len(tried) <= 3
    assert max((rows for rows, fit in tried.items() if fit), default=0) == max(
      fits, default=0
    )


def test_what_cannot_fit_with_less_in_memory_is_not_tried_with_more():
  machine, _ = ask(capacity=8)  # no row beside an LLM that is whole
  whole = [asked for asked in machine.asked if asked[0] == 4]
  assert whole[-1] == (4, 1, 1, 'full', 1)
  assert {policy for *_, policy, _ in whole} == {'full'}


def test_why_there_is_no_plan_at_all_is_said():
  def refuse(question):
    raise ValueError('nothing divides')

  question = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  with pytest.raises(ValueError, match='nothing divides'):
    list(search(question, refuse))


def test_the_fastest_that_fits_comes_first():
  _, plans = ask(capacity=20)
  ranked = best_first(plans)
  fits = [plan['fits'] for plan in ranked]
  assert fits == sorted(fits, reverse=True) and fits[0] and not fits[-1]
  speeds = [plan['estimate']['audio_hours_per_second'] for plan in ranked]
  assert speeds[0] == max(s for s, f in zip(speeds, fits, strict=True) if f)


def test_the_question_is_not_changed():
  question = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  before = question.fingerprint
  list(search(question, Machine(9)))
  assert question.fingerprint == before
