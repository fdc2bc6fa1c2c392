# SPDX-License-Identifier: Apache-2.0
r"""Program: join several manifests into one, over the folders beside it.

  python -m data_pipeline.join --input=spoken,prompts,recordings*4 \
      --output=speech/manifest.jsonl

Each name is a folder beside the output with a `manifest.jsonl`; `*4` repeats its
utterances four times, to be augmented differently. Ids become `folder-id`, or
`folder-id-2`.
"""

from collections.abc import Sequence

from absl import flags

from acl_jax.runtime import program
from data_pipeline.corpus_tools.manifests import join_manifests


def main(argv: Sequence[str]) -> None:
  """Run `join_manifests` with the flags."""
  del argv
  print(f'join: {join_manifests(flags.FLAGS.input, flags.FLAGS.output)}')


if __name__ == '__main__':
  flags.DEFINE_list('input', None, 'folders beside the output')
  flags.DEFINE_string('output', None, 'the manifest to write')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
