# SPDX-License-Identifier: Apache-2.0
"""Program: write questions and requests of the kinds that people ask a chat model.

  python -m data_pipeline.questions --split=train --count=1500 --output=asked.txt

Names of places and people, numbers, times, dates and money as they are written,
spelling, options, constraints on the answer, and small talk. The lines of
`--split=heldout` share no template, name, word or topic with those for training.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from acl_jax.runtime.files import write_atomically
from data_pipeline.corpus_tools.requests import make_requests


def main(argv: Sequence[str]) -> None:
  """Run `make_requests` with the flags."""
  del argv
  args = flags.FLAGS
  lines = make_requests(args.count, args.split, args.seed)
  write_atomically(Path(args.output), ''.join(line + '\n' for line in lines))
  print(f'questions: {len(lines)} lines in {args.output}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_enum('split', 'train', ['train', 'heldout'], 'which templates and names')
  flags.DEFINE_integer('count', 1_500, 'lines to write', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'seed of the choice of lines')
  flags.DEFINE_string('output', None, 'text file to write')
  flags.mark_flag_as_required('output')
  program.run(main)
