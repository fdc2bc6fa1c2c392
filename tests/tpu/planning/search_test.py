# SPDX-License-Identifier: Apache-2.0
"""The search tries whatever may fit, and ranks the fastest plan first."""

import pytest

from acl_jax.tpu import slices
from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.planning.search import (
  ROWS_PER_CHIP,
  best_first,
  candidate_meshes,
  search,
)
from tests.tiny_plan import tiny_config

ROW_MEMORY = {'full': 1, 'dots': 3, None: 9}


class FakePlanner:
  """Stands in for the compiler: limited memory, and a tensor axis of at most two."""

  def __init__(self, capacity):
    self.capacity, self.requests = capacity, []

  def __call__(self, request):
    sizes, remat = request.config.mesh, request.config.response.remat
    if sizes.tensor > 2:
      raise ValueError('an axis does not divide')
    llm = 8 if request.config.llama.sharding == 'replicated' else 1
    used = llm + ROW_MEMORY[remat] * request.rows_per_chip
    self.requests.append((*sizes.sizes.values(), remat, request.rows_per_chip))
    speed = float(request.rows_per_chip + (remat is None))
    return {
      'fits': used <= self.capacity,
      'remat': remat,
      'estimate': {'audio_hours_per_second': speed},
    }


def run_search(capacity):
  request = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  planner = FakePlanner(capacity)
  return planner, list(search(request, planner))


def test_meshes_have_as_many_devices_as_the_slice():
  for llm in (True, False):
    meshes = list(candidate_meshes(4, llm))
    assert len(set(meshes)) == len(meshes)
    assert all(data * fsdp * tensor == 4 for data, fsdp, tensor, _ in meshes)
  assert {sharding for *_, sharding in candidate_meshes(4, False)} == {'replicated'}


@pytest.mark.parametrize('capacity', [9, 20, 33, 200])
def test_the_largest_batch_of_every_mesh_and_policy_is_found(capacity):
  planner, plans = run_search(capacity)
  requests = planner.requests
  assert len(plans) == len(requests) == len(set(requests))
  assert not [request for request in requests if request[2] > 2]
  for policy, memory in ROW_MEMORY.items():
    fitting = [rows for rows in ROWS_PER_CHIP if 1 + memory * rows <= capacity]
    tried = {
      request[-1]: plan['fits']
      for request, plan in zip(requests, plans, strict=True)
      if request[:4] == (1, 4, 1, policy)
    }
    assert len(tried) <= 3
    largest = max((rows for rows, fits in tried.items() if fits), default=0)
    assert largest == max(fitting, default=0)


def test_policies_that_need_more_memory_are_not_tried_once_one_fails():
  planner, _ = run_search(capacity=8)  # no row fits beside a replicated LLM
  replicated = [request for request in planner.requests if request[0] == 4]
  assert replicated[-1] == (4, 1, 1, 'full', 1)
  assert {policy for *_, policy, _ in replicated} == {'full'}


def test_without_any_plan_the_last_error_is_raised():
  last_error = ValueError()

  def refuse(request):
    raise last_error

  request = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  with pytest.raises(ValueError) as error:
    list(search(request, refuse))
  assert error.value is last_error


def test_the_fastest_plan_that_fits_comes_first():
  _, plans = run_search(capacity=20)
  ranked = best_first(plans)
  fits = [plan['fits'] for plan in ranked]
  assert fits == sorted(fits, reverse=True) and fits[0] and not fits[-1]
  speeds = [plan['estimate']['audio_hours_per_second'] for plan in ranked]
  assert speeds[0] == max(s for s, f in zip(speeds, fits, strict=True) if f)


def test_the_request_is_not_modified():
  request = PlanRequest(tiny_config(), slices.parse_slice('v5e-4'))
  before = request.fingerprint
  list(search(request, FakePlanner(9)))
  assert request.fingerprint == before
