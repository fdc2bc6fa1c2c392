# SPDX-License-Identifier: Apache-2.0
"""Program: write text lines for a speech corpus, made from WordNet.

  python -m data_pipeline.sentences --count=22000 --held_out=300 --output=lines
  python -m data_pipeline.sentences --vocabulary=1500 --lists=10000 --output=easy

Lines are usage examples, and questions and requests about common words. Lines with
words that occur in few other lines come first.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from data_pipeline.corpus_tools.sentences import make_lines


def main(argv: Sequence[str]) -> None:
  """Run `make_lines` with the flags."""
  del argv
  args = flags.FLAGS
  training, held_out = make_lines(
    Path(args.wordnet),
    args.count,
    args.held_out,
    args.seed,
    args.vocabulary,
    args.lists,
  )
  for lines, suffix in ((training, '.txt'), (held_out, '-held-out.txt')):
    path = Path(args.output + suffix)
    path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
    print(f'{len(lines)} lines in {path}')


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_string('wordnet', '/usr/share/wordnet', "WordNet's dict folder")
  flags.DEFINE_integer('count', 22_000, 'lines to train on', lower_bound=1)
  flags.DEFINE_integer('held_out', 300, 'other lines, to evaluate on', lower_bound=0)
  flags.DEFINE_integer(
    'vocabulary', None, 'use only this many of the commonest words', lower_bound=1
  )
  flags.DEFINE_integer(
    'lists', 0, 'additional training lines of words in random order', lower_bound=0
  )
  flags.DEFINE_integer('seed', 0, 'seed of the choice and order of lines')
  flags.DEFINE_string('output', None, 'writes OUTPUT.txt and OUTPUT-held-out.txt')
  flags.mark_flag_as_required('output')
  program.run(main)
