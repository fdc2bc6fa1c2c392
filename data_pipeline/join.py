# SPDX-License-Identifier: Apache-2.0
"""Program: several manifests as one, over folders that lie beside it.

  python -m data_pipeline.join --input=spoken,prompts,recordings*4 \
      --output=speech/manifest.jsonl

Each name is a folder beside the output, with a `manifest.jsonl`; `*4` takes it four
times, to be augmented differently. Ids become `folder-id`, or `folder-id-2`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from acl_jax.runtime import program
from acl_jax.runtime.files import write_atomically


def join(parts: Sequence[str], output: str | Path) -> Path:
  """Writes and returns the joint manifest; see the module for `parts`."""
  output = Path(output)
  lines = [
    json.dumps(entry) for part in parts for entry in _entries(part, output.parent)
  ]
  write_atomically(output, '\n'.join(lines) + '\n')
  return output


def _entries(part: str, beside: Path) -> Iterator[dict]:
  name, star, copies = part.partition('*')
  if star and not copies.isdigit():
    raise ValueError(f'{part!r}: write a folder, or folder*4 to take it four times')
  for copy in range(int(copies or 1)):
    for line in (beside / name / 'manifest.jsonl').read_text().splitlines():
      entry = json.loads(line)
      entry['audio_filepath'] = f'{name}/{entry["audio_filepath"]}'
      entry['id'] = f'{name}-{entry["id"]}' + (f'-{copy}' if star else '')
      yield entry


def main(argv: Sequence[str]) -> None:
  """Runs `join` with the flags."""
  del argv
  print(f'join: {join(flags.FLAGS.input, flags.FLAGS.output)}')


if __name__ == '__main__':
  flags.DEFINE_list('input', None, 'folders beside the output')
  flags.DEFINE_string('output', None, 'the manifest to write')
  flags.mark_flags_as_required(['input', 'output'])
  program.run(main)
