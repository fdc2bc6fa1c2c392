# SPDX-License-Identifier: Apache-2.0
"""Program: what a step of another program would need and do on TPUs, without any TPU.

  python -m acl_jax.plan --config=configs/llama2_7b_mls.py --topology=v5e-16

Compiles the real step ahead of time for a slice, through libtpu (pip install
acl_jax[tpu]): whether it fits, what fills the memory, what travels between chips, and
an estimate of speed and cost. --topology=all plans for a slice of every generation.
--search tries meshes, remat policies and batch sizes, and tells the fastest first.
The last line printed is JSON. --output keeps every plan as soon as it is made, one a
line; run again, a plan that is there is not made again.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from acl_jax.runtime import program
from acl_jax.tpu import topologies
from acl_jax.tpu.planning import flops, report, roofline, steps, tables
from acl_jax.tpu.planning.report import PlanRequest
from acl_jax.tpu.planning.search import best_first, search
from acl_jax.tpu.slices import Slice, parse_slice

Plan = dict[str, Any]
WIDTH = 200  # of the table in a file


class Planner:
  """Answers questions; what it has counted or answered once, it does not again."""

  def __init__(self, console: Console, output: Path | None):
    self.console, self.output = console, output
    if output:
      output.touch()  # before hours of work
    self._counted: dict[str | None, flops.Flops] = {}
    self._known = {plan['question']: plan for plan in read(output)}

  def __call__(self, question: PlanRequest) -> Plan:
    if (plan := self._known.get(question.fingerprint)) is None:
      plan = self._answer(question)
      if self.output:
        with self.output.open('a') as file:
          file.write(json.dumps(plan) + '\n')
    self.console.print(tables.line(plan), highlight=False)
    return plan

  def _answer(self, question: PlanRequest) -> Plan:
    with self.console.status(f'{question.program}: counting operations') as status:
      remat = question.stage.get('remat')
      if remat not in self._counted:
        step_of = steps.PROGRAMS[question.program]
        self._counted[remat] = flops.of_step(question.config, step_of)
      status.update(f'{question.slice}: compiling for it')
      return report.make_plan(question, self._counted[remat])


def read(output: Path | None) -> list[Plan]:
  """The plans in a file, if there is one."""
  if output is None:
    return []
  try:
    plans = [json.loads(line) for line in output.read_text().splitlines()]
    tables.markdown(plans)  # as much as is needed of them
    return [plan for plan in plans if plan['question']]
  except (ValueError, TypeError, KeyError):
    raise ValueError(f'{output}: not the plans of an earlier run; remove it') from None


def make_plans(
  question: PlanRequest, slices: Sequence[Slice], searching: bool, planner
) -> Iterator[Plan]:
  """A plan for each slice, or those of a search."""
  for slice in slices:
    question = dataclasses.replace(question, slice=slice)
    if searching:
      yield from search(question, planner)
    else:
      yield planner(question)


def main(argv: Sequence[str]) -> None:
  """Plans with the flags."""
  del argv
  given = flags.FLAGS
  jax.config.update('jax_platforms', 'cpu')  # shapes are traced there
  names = topologies.ALL if given.topology == 'all' else [given.topology]
  slices = [parse_slice(name) for name in names]
  console = Console(stderr=True)
  output = Path(given.output) if given.output else None
  question = PlanRequest(
    given.config,
    slices[0],
    given.program,
    given.rows_per_chip,
    given.efficiency,
    given.price,
  )
  plans, interrupted = [], None
  try:
    for plan in make_plans(question, slices, given.search, Planner(console, output)):
      plans.append(plan)
  except KeyboardInterrupt as error:  # what there is so far is told
    interrupted = error
  plans = best_first(plans) if given.search else plans
  wide = None if sys.stdout.isatty() else WIDTH
  note = tables.note(given.efficiency)
  Console(width=wide).print(tables.table(plans), note, sep='\n')
  print(json.dumps(plans[0] if len(plans) == 1 else plans))
  if interrupted:
    raise interrupted
  if len(plans) == 1 and (advice := plans[0]['advice']):
    raise ValueError(f'{tables.line(plans[0])}; try {advice}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  config_flags.DEFINE_config_file('config')
  flags.DEFINE_string('topology', None, 'v5e-16, v5e:4x4, v4-32, ...; or all')
  flags.DEFINE_enum('program', 'train', sorted(steps.PROGRAMS), 'whose step')
  flags.DEFINE_integer(
    'rows_per_chip', 0, "rows of the batch on each chip; 0: the config's batch", 0
  )
  flags.DEFINE_bool('search', False, 'try meshes, remat policies and batch sizes')
  flags.DEFINE_float('efficiency', roofline.EFFICIENCY, 'share of the roofline', 0, 1)
  flags.DEFINE_float('price', None, f'instead of {topologies.PRICES}', 0)
  flags.DEFINE_string('output', None, 'file of plans, JSON, one a line')
  flags.mark_flags_as_required(['config', 'topology'])
  program.run(main)
