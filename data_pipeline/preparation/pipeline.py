# SPDX-License-Identifier: Apache-2.0
"""Every part of a plan, made into a shard by some worker of Apache Beam.

Beam is imported by the functions: it takes a second, and only a run that has something
to do needs it.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Any

from acl_jax.runtime.progress import progress
from data_pipeline.preparation import shard

DIRECT = 'DirectRunner'


def run(job: shard.Job, runner: str, beam_options: Sequence[str]) -> None:
  """Returns when all shards are made.

  ValueError if Beam does not know the runner or an option. What goes wrong in this
  process is raised as it is, what goes wrong in another as the runner tells it.
  """
  beam = _import_beam()
  options = _options(runner, beam_options)
  try:
    pipeline = beam.Pipeline(_runner(runner), options=options)
  except ImportError as error:
    raise ValueError(f'--runner={runner}: {error}') from None
  parts = pipeline | 'Parts' >> beam.Create(range(job.plan.parts))
  # Any worker may take any part.
  spread = parts | 'Spread' >> beam.Reshuffle()
  _ = spread | 'Make shards' >> beam.Map(shard.make, job)
  if not _in_this_process(runner, options):
    pipeline.run().wait_until_finish()
    return
  with progress('prepare', job.plan.utterances) as shard.advance:
    try:
      # Beam logs every error with a traceback before raising it.
      logging.getLogger('apache_beam.runners.common').setLevel(logging.CRITICAL)
      pipeline.run().wait_until_finish()
    except Exception as error:
      # Beam raises another exception, with the name of the step, in its place.
      raise error.__context__ or error from None
    finally:
      shard.advance = shard.ignore


def _import_beam() -> Any:
  """Beam, without its warning that Google's client libraries are not installed."""
  disabled = logging.root.manager.disable
  logging.disable(logging.WARNING)
  try:
    import apache_beam
  finally:
    logging.disable(disabled)
  return apache_beam


def _options(runner: str, beam_options: Sequence[str]) -> Any:
  from apache_beam.options.pipeline_options import PipelineOptions

  given = [] if runner == DIRECT else [f'--runner={runner}']
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      options = PipelineOptions([*given, *beam_options])
      options.get_all_options()  # parses them
  except SystemExit:
    reason = said.getvalue().strip().rpartition('error: ')[2]
    raise ValueError(f'--beam_options: {reason}') from None
  return options


def _runner(name: str) -> Any:
  """The runner, or its name for Beam to look up."""
  if name != DIRECT:
    return name
  # Beam's own idea of a DirectRunner would first download another runner, Prism.
  from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

  return FnApiRunner()


def _in_this_process(runner: str, options: Any) -> bool:
  from apache_beam.options.pipeline_options import DirectOptions

  mode = options.view_as(DirectOptions).direct_running_mode
  return runner == DIRECT and mode == 'in_memory'
