# SPDX-License-Identifier: Apache-2.0
"""Program: put two reports of `evaluate` side by side, with paired tests.

  python -m acl_jax.evaluation.compare A B [--output=DIR]

A and B are report folders of the same manifest: two checkpoints, adapters or sizes.
Prints a table; with --output writes DIR/compare.json and DIR/compare.html.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.evaluation.comparison import compare, read_measured
from acl_jax.evaluation.comparison_page import format_comparison, render_comparison
from acl_jax.runtime import program
from acl_jax.runtime.files import write_atomically


def main(argv: Sequence[str]) -> None:
  """Compare the two folders."""
  first, second = (read_measured(Path(name)) for name in argv[1:3])
  compared = compare(first, second)
  print(format_comparison(compared))
  if flags.FLAGS.output:
    folder = Path(flags.FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(compared, indent=2, allow_nan=False) + '\n'
    write_atomically(folder / 'compare.json', content)
    page = render_comparison(compared, first, second)
    write_atomically(folder / 'compare.html', page)
    print(f'compare: {compared["cases"]} cases, see {folder}/compare.html')


if __name__ == '__main__':
  # Here and not at import, because other programs have a flag with the same name.
  flags.DEFINE_string('output', None, 'folder for compare.json and compare.html')
  program.run(main, 'A', 'B')
