# SPDX-License-Identifier: Apache-2.0
"""Plan a step for a TPU slice without having one: memory, collectives, time, cost."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from acl_jax.config.experiment import Experiment, to_json
from acl_jax.config.sections import LLMConfig
from acl_jax.runtime import compilation_cache
from acl_jax.sharding.mesh import make_mesh
from acl_jax.tpu import xla_flags
from acl_jax.tpu.planning import flops, hlo, roofline, shapes, steps
from acl_jax.tpu.planning.steps import StepSpec
from acl_jax.tpu.slices import Slice
from acl_jax.tpu.topologies import chip_for, topology_devices

VERSIONED_PACKAGES = ('jax', 'jaxlib', 'libtpu')
# libtpu's two messages when memory runs out. 'Used' includes the arguments, 'HLO
# temporaries' does not.
_OUT_OF_MEMORY = re.compile(r'(Used|HLO temporaries) \(?([\d.]+)([KMGT])')
_UNIT_BYTES = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}


@dataclasses.dataclass(frozen=True)
class CompilationResult:
  """What the compiler reports about a step.

  Attributes:
    seconds: Time to compile.
    peak_bytes: Peak memory of one device; a lower bound if the step does not fit.
    collectives: None if the step does not fit, or its program cannot be read.
  """

  seconds: float
  peak_bytes: int
  collectives: list[hlo.Collective] | None


def compile_step(step: StepSpec, slice: Slice) -> CompilationResult:
  """Lower and compile a step; one that does not fit gives a result, not an error."""
  start = time.monotonic()
  lowered = step.lower()
  try:
    options = xla_flags.compiler_options(slice.generation.name)
    with compilation_cache.disabled():
      compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if (message := _OUT_OF_MEMORY.search(str(error))) is None:
      raise
    kind, size, unit = message.groups()
    peak_bytes = int(float(size) * _UNIT_BYTES[unit])
    if kind == 'HLO temporaries':
      peak_bytes += bytes_per_device(step.arguments)
    return CompilationResult(time.monotonic() - start, peak_bytes, None)
  seconds = time.monotonic() - start
  try:
    collectives = hlo.parse_collectives(compiled.as_text() or '')
  except jax.errors.JaxRuntimeError:  # libtpu may be newer than this JAX
    collectives = None
  memory = compiled.memory_analysis()
  assert memory, 'libtpu reports no memory analysis'
  return CompilationResult(seconds, memory.peak_memory_in_bytes, collectives)


def bytes_per_device(tree) -> int:
  """Return the bytes of a tree of arrays on one device."""

  def size_of(x) -> int:
    shape = x.sharding.shard_shape(x.shape) if x.sharding else x.shape
    return int(math.prod(shape) * _itemsize(x.dtype))

  return sum(map(size_of, jax.tree.leaves(tree)))


def _itemsize(dtype) -> float:
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return 8.0
  return 0.5 if dtype == jnp.int4 else float(dtype.itemsize)


# The stage that each program trains.
STAGES = {'train': 'response', 'pretrain': 'ctc', 'decode_targets': None}


@dataclasses.dataclass(frozen=True)
class PlanRequest:
  """A program's step to plan for a slice.

  `rows_per_chip` 0 stands for the config's batch. For `efficiency` and `price` see
  `roofline.estimate`.
  """

  config: Experiment
  slice: Slice
  program: str = 'train'
  rows_per_chip: int = 0
  efficiency: float = roofline.DEFAULT_EFFICIENCY
  price: float | None = None

  @property
  def remat(self) -> str | None:
    """What the backward pass of the step recomputes; None without one."""
    name = STAGES[self.program]
    return None if name is None else getattr(self.config, name).remat

  @property
  def fingerprint(self) -> str:
    """A hash of everything that the plan depends on."""
    config = json.dumps(to_json(self.config), sort_keys=True)
    rest = self.slice, self.program, self.rows_per_chip, self.efficiency, self.price
    return hashlib.sha256(f'{config} {rest}'.encode()).hexdigest()[:16]


def make_plan(request: PlanRequest, counted: flops.Flops) -> dict[str, Any]:
  """Return the plan, ready for JSON.

  Args:
    request: What to plan.
    counted: The operations of the request's step.
  """
  config: Any = request.config
  slice = request.slice
  chip, chips = chip_for(slice), slice.chips
  mesh = make_mesh(config.mesh.sizes, topology_devices(slice))
  step = steps.PROGRAMS[request.program](config, mesh, request.rows_per_chip * chips)
  parts = {name: bytes_per_device(tree) for name, tree in step.arguments.items()}
  argument_bytes = sum(parts.values())
  if argument_bytes * chip.num_devices <= chip.hbm_bytes:
    compiled = compile_step(step, slice)
  else:  # the arguments alone do not fit
    compiled = CompilationResult(0.0, argument_bytes, None)
  peak, capacity = compiled.peak_bytes * chip.num_devices, chip.hbm_bytes
  collectives = compiled.collectives
  received = None if collectives is None else received_by_kind(collectives, mesh.size)
  parts['temporaries'] = max(0, compiled.peak_bytes - argument_bytes)
  work = {
    'flops': counted.per_row * step.rows / chips,
    'hbm_bytes': _hbm_bytes(step, parts, mesh, chip.num_devices),
    'ici_bytes': sum((received or {}).values()) * chip.num_devices,
    'llm_tokens': step.llm_tokens,
    'audio_seconds': step.audio_seconds,
  }
  return {
    'topology': str(slice),
    'chips': chips,
    'program': request.program,
    'mesh': dict(mesh.shape),
    'llm': _describe_llm(config.llama) if 'llm' in parts else None,
    'remat': request.remat,
    'rows_per_chip': step.rows / chips,
    'llm_tokens_per_chip': step.llm_tokens / chips,
    'parameters': count_parameters(step),
    'compile_seconds': compiled.seconds,
    'hbm_bytes_per_chip': peak,
    'hbm_capacity_bytes': capacity,
    'fits': peak <= capacity,
    'advice': None if peak <= capacity else advice(request, parts),
    'hbm_bytes_of': {name: size * chip.num_devices for name, size in parts.items()},
    'collectives': None if collectives is None else hlo.count_by_kind(collectives),
    'collective_bytes': received,
    'flops_per_llm_token_over_n': counted.per_llm_token_over_n,
    'estimate': roofline.estimate(chip, chips, work, request.efficiency, request.price),
    'assumed': shapes.ASSUMPTIONS,
    'question': request.fingerprint,
    'versions': {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES},
  }


def _describe_llm(llm: LLMConfig) -> dict[str, str]:
  return {'dtype': llm.dtype, 'sharding': llm.sharding}


def received_by_kind(collectives: list[hlo.Collective], devices: int) -> dict[str, int]:
  """Return the bytes a device receives in a step through each kind of collective."""
  received = dict.fromkeys(hlo.count_by_kind(collectives), 0)
  for collective in collectives:
    received[collective.kind] += collective.bytes_received(devices)
  return received


def count_parameters(step: StepSpec) -> int:
  """Return the number of parameters of the whole model."""
  models = [step.arguments.get(name) for name in ('llm', 'trainable')]
  return sum(leaf.size for leaf in jax.tree.leaves(models))


def _hbm_bytes(
  step: StepSpec, parts: dict[str, int], mesh: Mesh, devices: int
) -> float:
  """Return the bytes a chip reads and writes in a step.

  Weights of the LLM count whole even if they are stored sharded along `fsdp`.
  """
  llm = jax.tree.leaves(step.arguments.get('llm'))
  weights = sum(x.size * _itemsize(x.dtype) for x in llm) / mesh.shape['tensor']
  sizes = parts | {'llm': weights}
  return sum(n * sizes[name] for name, n in step.hbm_passes.items()) * devices


def advice(request: PlanRequest, parts: dict[str, int]) -> str:
  """Return what to change in a config that does not fit."""
  config: Any = request.config
  if parts.get('llm', 0) > sum(parts.values()) / 2:
    if config.llama.sharding != 'fsdp':
      return "config.llama.sharding='fsdp' with config.mesh.fsdp=-1, or dtype='int8'"
    return 'a larger slice, or config.mesh.tensor above 1'
  if STAGES[request.program] and request.remat != 'full':
    return "remat='full', fewer --rows_per_chip, or a larger slice"
  return 'fewer --rows_per_chip, or a larger slice'
