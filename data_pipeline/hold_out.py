# SPDX-License-Identifier: Apache-2.0
r"""Program: split manifests into training and held-out sets that share nothing.

  python -m data_pipeline.hold_out --output=splits --train=novels,calls/manifest.jsonl \
      --held_out=dialogue:150:drama --held_out=accented:120:@anna,@wei

writes `splits/train.jsonl`, `splits/dialogue.jsonl` (150 lines of the folder `drama`)
and `splits/accented.jsonl` (120 lines of two speakers of the training manifests). The
lines of a set are distinct sentences; `dialogue:all:drama` takes all as they are. No
line for training is of a held-out folder or speaker, or has the sentence of a held-out
line, in whatever case and punctuation. Paths become absolute, ids `folder-id`.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import locks, program
from data_pipeline.corpus_tools.manifests import find_manifest
from data_pipeline.corpus_tools.splits import HeldOut, hold_out


def main(argv: Sequence[str]) -> None:
  """Run `hold_out` with the flags."""
  del argv
  args = flags.FLAGS
  training = [find_manifest(Path(path)) for path in args.train]
  sets = [HeldOut.parse(spec) for spec in args.held_out]
  if len({each.name for each in sets}) < len(sets):
    raise ValueError('--held_out: two sets have the same name')
  output = Path(args.output)
  with locks.own_folder(output):
    counts = hold_out(training, sets, output, seed=args.seed, min_words=args.min_words)
  if counts.unusable:
    print(f'hold_out: {counts.unusable} unusable lines, first {counts.first_reason}')
  for name, lines in (*counts.held_out.items(), ('train', counts.training)):
    print(f'hold_out: {lines} lines in {output / name}.jsonl')
  print(
    f'hold_out: left out of training {counts.held_out_source} lines of held-out'
    f' sources and {counts.held_out_sentence} with a held-out sentence'
  )


if __name__ == '__main__':
  # Defined here: other programs have flags of the same names.
  flags.DEFINE_list('train', None, 'manifests, or folders with a manifest.jsonl')
  flags.DEFINE_multi_string(
    'held_out', None, 'NAME:LINES:SOURCE,… of folders, manifests and @speakers'
  )
  flags.DEFINE_string('output', None, 'folder for train.jsonl and NAME.jsonl')
  flags.DEFINE_integer('seed', 0, 'seed of the choice of held-out lines')
  flags.DEFINE_integer('min_words', 3, 'words of a held-out line', lower_bound=1)
  flags.mark_flags_as_required(['train', 'held_out', 'output'])
  program.run(main)
