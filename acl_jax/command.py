# SPDX-License-Identifier: Apache-2.0
"""Console script: `acl-jax PROGRAM ...` is `python -m acl_jax.PROGRAM ...`."""

import runpy
import sys

PROGRAMS = {
  'prepare': 'data_pipeline.prepare',
  'synthesize': 'data_pipeline.synthesize',
  'transcribe': 'data_pipeline.transcribe',
  'inspect': 'data_pipeline.inspect',
  'decode_targets': 'acl_jax.decode_targets',
  'pretrain': 'acl_jax.pretrain',
  'train': 'acl_jax.train',
  'evaluate': 'acl_jax.evaluate',
  'compare': 'acl_jax.evaluation.compare',
  'chat': 'acl_jax.chat',
  'serve': 'acl_jax.serve',
  'export': 'acl_jax.export',
  'plan': 'acl_jax.plan',
}


def main() -> None:
  """Run the program that the first argument names, with the other arguments."""
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name not in PROGRAMS:
    known = ', '.join(PROGRAMS)
    wrong = f'{name!r} is not a program; ' if name else ''
    sys.exit(f'error: {wrong}acl-jax PROGRAM [--help]; programs: {known}')
  del sys.argv[1]
  runpy.run_module(PROGRAMS[name], run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
