# SPDX-License-Identifier: Apache-2.0
"""Program: a command, or several processes of it that JAX joins, on this machine; again
when they were preempted.

  python -m launch.local --processes=2 -- python -m acl_jax.train --config=configs/x.py

SIGTERM, SIGINT and SIGHUP ask the processes to save and end; then this ends, with 42.
"""

import sys
from collections.abc import Sequence

from absl import flags

from acl_jax.runtime import program
from launch import quoting
from launch.supervisor import Supervisor


def main(argv: Sequence[str]) -> None:
  """Runs the command after `--`."""
  del argv
  if not COMMAND:
    raise ValueError('the command is missing: write it after --')
  Supervisor(COMMAND, flags.FLAGS.processes, flags.FLAGS.max_restarts).run()


if __name__ == '__main__':
  flags.DEFINE_integer('processes', 1, 'processes that JAX joins', lower_bound=1)
  flags.DEFINE_integer('max_restarts', 100, 'restarts when preempted', lower_bound=0)
  sys.argv, COMMAND = quoting.split(sys.argv)
  program.run(main)
