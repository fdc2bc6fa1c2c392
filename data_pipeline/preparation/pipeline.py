# SPDX-License-Identifier: Apache-2.0
"""Apache Beam pipeline that turns every part of a plan into a shard.

Beam is imported inside the functions: it takes a second, and only runs with shards left
to make need it.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from acl_jax.runtime.progress import progress
from data_pipeline.preparation import shard

DIRECT = 'DirectRunner'


class Beam(NamedTuple):
  """Where Beam runs: a runner by name, and its options."""

  runner: str = DIRECT
  options: Sequence[str] = ()


def run(job: shard.Job, runner: str, beam_options: Sequence[str]) -> None:
  """Make all shards of a job.

  ValueError if Beam does not know the runner or an option. Errors in this process are
  raised unchanged; errors in others as the runner reports them.
  """
  beam = _import_beam()
  options = _parse_options(runner, beam_options)
  try:
    pipeline = beam.Pipeline(_make_runner(runner), options=options)
  except ImportError as error:
    raise ValueError(f'--runner={runner}: {error}') from None
  parts = pipeline | 'Parts' >> beam.Create(range(job.plan.parts))
  # Without it Beam may fuse the steps, and one worker would make all shards.
  reshuffled = parts | 'Reshuffle' >> beam.Reshuffle()
  _ = reshuffled | 'Make shards' >> beam.Map(shard.make_shard, job)
  if not _runs_in_process(runner, options):
    pipeline.run().wait_until_finish()
    return
  with progress('prepare', job.plan.utterances) as shard.report_progress:
    try:
      # Beam also logs every error that it raises, with a traceback.
      logging.getLogger('apache_beam.runners.common').setLevel(logging.CRITICAL)
      pipeline.run().wait_until_finish()
    except Exception as error:
      # Beam wraps the original exception to add the name of the step.
      raise error.__context__ or error from None
    finally:
      shard.report_progress = shard.ignore_progress


def _import_beam() -> Any:
  """Import Beam without its warning that Google's client libraries are missing."""
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    import apache_beam
  finally:
    logging.disable(disabled)
  return apache_beam


def _parse_options(runner: str, beam_options: Sequence[str]) -> Any:
  """Parse Beam's options; ValueError with its parser's message if one is unknown."""
  from apache_beam.options.pipeline_options import PipelineOptions

  runner_options = [] if runner == DIRECT else [f'--runner={runner}']
  stderr = io.StringIO()
  try:
    with contextlib.redirect_stderr(stderr):
      options = PipelineOptions([*runner_options, *beam_options])
      options.get_all_options()  # parses them
  except SystemExit:
    reason = stderr.getvalue().strip().rpartition('error: ')[2]
    raise ValueError(f'--beam_options: {reason}') from None
  return options


def _make_runner(name: str) -> Any:
  """Return the in-process runner, or the name of another for Beam to look up."""
  if name != DIRECT:
    return name
  # Beam's DirectRunner would download another runner, Prism, first.
  from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

  return FnApiRunner()


def _runs_in_process(runner: str, options: Any) -> bool:
  from apache_beam.options.pipeline_options import DirectOptions

  mode = options.view_as(DirectOptions).direct_running_mode
  return runner == DIRECT and mode == 'in_memory'
