# SPDX-License-Identifier: Apache-2.0
"""Search meshes, remat policies and batch sizes for a slice."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from acl_jax.config.experiment import TrainConfig
from acl_jax.config.sections import MeshConfig
from acl_jax.tpu.planning.report import STAGES, PlanRequest
from acl_jax.tpu.topologies import chip_for

TENSOR_SIZES = (1, 2, 4, 8)
ROWS_PER_CHIP = (1, 2, 4, 8, 16, 32)
# In order of memory: the last keeps all activations.
REMAT_POLICIES = ('full', 'dots', None)


class Candidate(NamedTuple):
  """The choices that a search makes in a config."""

  data: int
  fsdp: int
  tensor: int
  sharding: str
  remat: str | None
  rows_per_chip: int


def candidate_meshes(devices: int, llm: bool) -> Iterator[tuple[int, int, int, str]]:
  """Yield sizes of the axes `data`, `fsdp` and `tensor`, and the LLM's sharding.

  The LLM is sharded along `fsdp`, or replicated but for `tensor`.
  """
  for tensor in TENSOR_SIZES:
    if devices % tensor == 0:
      if llm:
        yield 1, devices // tensor, tensor, 'fsdp'
      yield devices // tensor, 1, tensor, 'replicated'


def search(
  request: PlanRequest, make_plan: Callable[[PlanRequest], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
  """Yield plans until, for every mesh and policy, the largest fitting batch is known.

  The batch size is found by bisection. A policy that needs more memory is tried with no
  more rows than fitted with the previous one. Meshes whose axes do not divide the model
  are skipped; ValueError if all are.
  """
  plan, last_error = None, ValueError('there is no mesh to try')
  devices = request.slice.chips * chip_for(request.slice).num_devices
  for mesh in candidate_meshes(devices, isinstance(request.config, TrainConfig)):
    sizes = ROWS_PER_CHIP
    for remat in REMAT_POLICIES if STAGES[request.program] else (None,):
      num_fitting, end = 0, len(sizes)
      while num_fitting < end:
        middle = (num_fitting + end) // 2
        candidate = Candidate(*mesh, remat, sizes[middle])
        try:
          plan = make_plan(apply_candidate(request, candidate))
        except ValueError as error:
          num_fitting, last_error = 0, error
          break
        yield plan
        if plan['fits']:
          num_fitting = middle + 1
        else:
          end = middle
      sizes = sizes[:num_fitting]
  if plan is None:
    raise last_error


def apply_candidate(request: PlanRequest, candidate: Candidate) -> PlanRequest:
  """Return the request with the candidate's choices."""
  config = request.config
  mesh = MeshConfig(candidate.data, candidate.fsdp, candidate.tensor)
  changes: dict[str, Any] = {'mesh': mesh}
  if isinstance(config, TrainConfig):
    changes['llama'] = dataclasses.replace(config.llama, sharding=candidate.sharding)
  if (name := STAGES[request.program]) is not None:
    stage = getattr(config, name)
    changes[name] = dataclasses.replace(stage, remat=candidate.remat)
  return dataclasses.replace(
    request,
    config=dataclasses.replace(config, **changes),
    rows_per_chip=candidate.rows_per_chip,
  )


def best_first(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sort plans by estimated audio per second; those that do not fit come last."""

  def rank(plan: dict[str, Any]) -> tuple[bool, float]:
    return plan['fits'], plan['estimate']['audio_hours_per_second']

  return sorted(plans, key=rank, reverse=True)
