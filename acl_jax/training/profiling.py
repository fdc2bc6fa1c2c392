# SPDX-License-Identifier: Apache-2.0
"""Traces of a few steps by jax.profiler, for XProf, TensorBoard or Perfetto."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from absl import flags, logging

_STEPS = flags.DEFINE_string(
  'profile_steps', None, 'FIRST:LAST, the steps to trace into WORKDIR/profile'
)


class Profile:
  """Traces the steps that --profile_steps names, both ends included."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.steps = parse_steps(_STEPS.value if flags.FLAGS.is_parsed() else None)
    self._traces = self._traced = False

  @contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Around the dispatch of a step."""
    if number in self.steps and not self._traces:
      jax.profiler.start_trace(self.folder)
      self._traces = self._traced = True
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      yield

  def stop_after(self, number: int, made) -> None:
    """Ends the trace if this was its last step; made: what to wait for."""
    if self._traces and number >= self.steps[-1]:
      jax.block_until_ready(made)
      self.close()
      print(f'profile: steps {self.steps[0]} to {number} in {self.folder}', flush=True)

  def close(self) -> None:
    """Ends a trace that is under way; says so if there was none."""
    if self._traces:
      self._traces = False
      jax.profiler.stop_trace()
    elif self.steps and not self._traced:
      logging.warning('--profile_steps=%s: no such step was taken', _STEPS.value)


def parse_steps(text: str | None) -> range:
  """The steps of FIRST:LAST."""
  if not text:
    return range(0)
  found = re.fullmatch(r'(\d{1,9}):(\d{1,9})', text)
  first, last = map(int, found.groups()) if found else (0, 0)
  if not 1 <= first <= last:
    raise ValueError(
      f'--profile_steps={text}: write FIRST:LAST, such as 10:15; steps count from 1'
    )
  return range(first, last + 1)
