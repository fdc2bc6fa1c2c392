# SPDX-License-Identifier: Apache-2.0
"""Program: run a command on this machine, in one or more JAX processes.

Preempted processes are started again.

  python -m launch.local --processes=2 -- python -m acl_jax.train --config=configs/x.py

On SIGTERM, SIGINT or SIGHUP the processes save and exit; the launcher
then exits with 42.
"""

import sys
from collections.abc import Sequence

from absl import flags

from acl_jax.runtime import program
from launch import quoting
from launch.supervisor import Supervisor


def main(argv: Sequence[str]) -> None:
  """Run the command after `--`."""
  del argv
  if not COMMAND:
    raise ValueError('no command; write it after --')
  Supervisor(COMMAND, flags.FLAGS.processes, flags.FLAGS.max_restarts).run()


if __name__ == '__main__':
  flags.DEFINE_integer('processes', 1, 'JAX processes', lower_bound=1)
  flags.DEFINE_integer('max_restarts', 100, 'restarts after preemption', lower_bound=0)
  sys.argv, COMMAND = quoting.split_at_dashes(sys.argv)
  program.run(main)
