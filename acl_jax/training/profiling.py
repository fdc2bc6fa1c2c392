# SPDX-License-Identifier: Apache-2.0
"""Traces of a few steps by jax.profiler, for XProf, TensorBoard or Perfetto."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import flags, logging

_STEPS = flags.DEFINE_string(
  'profile_steps', None, 'FIRST:LAST, the steps to trace into WORKDIR/profile'
)


class Profile:
  """Traces the steps of --profile_steps, both ends included."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.steps = parse_steps(_STEPS.value if flags.FLAGS.is_parsed() else None)
    self._is_tracing = self._has_traced = False

  @contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Annotate the dispatch of a step, and start the trace if it is the first one."""
    if number in self.steps and not self._is_tracing:
      jax.profiler.start_trace(self.folder)
      self._is_tracing = self._has_traced = True
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      yield

  def stop_after(self, number: int, outputs: Any) -> None:
    """Wait for the outputs of the last traced step and stop the trace."""
    if self._is_tracing and number >= self.steps[-1]:
      jax.block_until_ready(outputs)
      self.close()
      print(f'profile: steps {self.steps[0]} to {number} in {self.folder}', flush=True)

  def close(self) -> None:
    """Stop a trace in progress; warn if no requested step was run."""
    if self._is_tracing:
      self._is_tracing = False
      jax.profiler.stop_trace()
    elif self.steps and not self._has_traced:
      logging.warning('--profile_steps=%s: none of these steps was run', _STEPS.value)


def parse_steps(text: str | None) -> range:
  """Return the steps of 'FIRST:LAST'; empty for None. ValueError for other text."""
  if not text:
    return range(0)
  match = re.fullmatch(r'(\d{1,9}):(\d{1,9})', text)
  first, last = map(int, match.groups()) if match else (0, 0)
  if not 1 <= first <= last:
    raise ValueError(
      f'--profile_steps={text}: write FIRST:LAST, such as 10:15; steps count from 1'
    )
  return range(first, last + 1)
