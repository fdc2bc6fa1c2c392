# SPDX-License-Identifier: Apache-2.0
"""Program: plan a step of another program on a TPU slice, without any TPU.

  python -m acl_jax.plan --config=configs/llama2_7b_mls.py --topology=v5e-16

Compiles the real step ahead of time with libtpu (pip install acl_jax[tpu]) and reports
whether it fits, what the memory holds, the traffic between chips, and an estimate of
speed and cost. --topology=all plans for one slice of every generation. --search tries
meshes, remat policies and batch sizes, and prints the fastest first. The last line of
the output is JSON. --output stores each plan as soon as it is made, one a line; a
repeated run reuses them.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console

from acl_jax.config.experiment import (
  PretrainConfig,
  TrainConfig,
  parse_pretrain,
  parse_train,
)
from acl_jax.runtime import config_flag, program
from acl_jax.tpu import topologies
from acl_jax.tpu.planning import flops, report, roofline, steps, tables
from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.planning.search import best_first, search
from acl_jax.tpu.slices import Slice, parse_slice

Plan = dict[str, Any]
WIDTH = 200  # columns of the table when the output is not a terminal


class Planner:
  """Makes plans; stored plans and counted operations are reused.

  output: the file of stored plans, if any.
  """

  def __init__(self, console: Console, output: Path | None):
    self.console, self.output = console, output
    if output:
      output.touch()  # fails now, not after hours of work
    self._flops: dict[str | None, flops.Flops] = {}  # by remat policy
    self._stored = {plan['question']: plan for plan in read_plans(output)}

  def __call__(self, request: PlanRequest) -> Plan:
    """Make or look up a plan, and print its line."""
    if (plan := self._stored.get(request.fingerprint)) is None:
      plan = self._make_plan(request)
      if self.output:
        with self.output.open('a') as file:
          file.write(json.dumps(plan) + '\n')
    self.console.print(tables.format_line(plan), highlight=False)
    return plan

  def _make_plan(self, request: PlanRequest) -> Plan:
    with self.console.status(f'{request.program}: counting operations') as status:
      remat = request.remat
      if remat not in self._flops:
        make_step = steps.PROGRAMS[request.program]
        self._flops[remat] = flops.count_step_flops(request.config, make_step)
      status.update(f'{request.slice}: compiling')
      return report.make_plan(request, self._flops[remat])


def read_plans(output: Path | None) -> list[Plan]:
  """Read the plans of earlier runs; ValueError if the file contains anything else."""
  if output is None:
    return []
  try:
    plans = [json.loads(line) for line in output.read_text().splitlines()]
    tables.format_markdown(plans)  # raises for a plan that lacks what a table shows
    return [plan for plan in plans if plan['question']]
  except (ValueError, TypeError, KeyError):
    raise ValueError(
      f'{output}: not a file of plans. Choose another --output, or delete it'
    ) from None


def make_plans(
  request: PlanRequest, slices: Sequence[Slice], searching: bool, planner
) -> Iterator[Plan]:
  """Yield a plan for each slice, or those of a search on each."""
  for slice in slices:
    request = dataclasses.replace(request, slice=slice)
    if searching:
      yield from search(request, planner)
    else:
      yield planner(request)


def main(argv: Sequence[str]) -> None:
  """Parse the config, then make and print the plans."""
  del argv
  args = flags.FLAGS
  jax.config.update('jax_platforms', 'cpu')  # for tracing
  names = topologies.DEFAULT_SLICES if args.topology == 'all' else [args.topology]
  slices = [parse_slice(name) for name in names]
  console = Console(stderr=True)
  output = Path(args.output) if args.output else None
  parse = parse_pretrain if args.program == 'pretrain' else parse_train
  request = PlanRequest(
    parse(args.config),
    slices[0],
    args.program,
    args.rows_per_chip,
    args.efficiency,
    args.price,
  )
  plans, interrupted = [], None
  try:
    for plan in make_plans(request, slices, args.search, Planner(console, output)):
      plans.append(plan)
  except KeyboardInterrupt as error:  # print the plans so far
    interrupted = error
  plans = best_first(plans) if args.search else plans
  width = None if sys.stdout.isatty() else WIDTH
  footnote = tables.footnote(args.efficiency)
  Console(width=width).print(tables.make_table(plans), footnote, sep='\n')
  print(json.dumps(plans[0] if len(plans) == 1 else plans))
  if interrupted:
    raise interrupted
  if len(plans) == 1 and (advice := plans[0]['advice']):
    raise ValueError(f'{tables.format_line(plans[0])}; try {advice}')


if __name__ == '__main__':
  # Here and not at import, because other programs have flags with the same names.
  config_flag.define(TrainConfig, PretrainConfig)
  flags.DEFINE_string(
    'topology', None, 'v5e-16, v5e:4x4, v4-32, …; all: one of every generation'
  )
  flags.DEFINE_enum(
    'program', 'train', sorted(steps.PROGRAMS), 'the program that runs the step'
  )
  flags.DEFINE_integer(
    'rows_per_chip', 0, 'rows of a batch per chip; 0: from the config', 0
  )
  flags.DEFINE_bool('search', False, 'try meshes, remat policies and batch sizes')
  flags.DEFINE_float(
    'efficiency', roofline.DEFAULT_EFFICIENCY, 'speed over that of the roofline', 0, 1
  )
  flags.DEFINE_float('price', None, f'replaces {topologies.PRICE_BASIS}', 0)
  flags.DEFINE_string('output', None, 'file that plans are stored in, as JSON lines')
  flags.mark_flags_as_required(['config', 'topology'])
  program.run(main)
