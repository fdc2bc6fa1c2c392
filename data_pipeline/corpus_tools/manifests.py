# SPDX-License-Identifier: Apache-2.0
"""Several JSON-lines manifests joined into one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from acl_jax.runtime.files import write_atomically


def join_manifests(parts: Sequence[str], output: str | Path) -> Path:
  """Write the joint manifest of several folders; returns its path.

  parts: folders beside `output`, each with a `manifest.jsonl`; `folder*4` repeats its
    utterances four times. Ids become `folder-id`, or `folder-id-2` for repeated ones.
  """
  output = Path(output)
  lines = [
    json.dumps(entry) for part in parts for entry in _read_part(part, output.parent)
  ]
  write_atomically(output, '\n'.join(lines) + '\n')
  return output


def _read_part(part: str, parent: Path) -> Iterator[dict]:
  """Yield the entries of one part with paths relative to `parent` and new ids."""
  name, star, copies = part.partition('*')
  if star and not copies.isdigit():
    raise ValueError(f'{part!r}: write FOLDER, or FOLDER*4 to repeat it four times')
  for copy in range(int(copies or 1)):
    for line in (parent / name / 'manifest.jsonl').read_text().splitlines():
      entry = json.loads(line)
      entry['audio_filepath'] = f'{name}/{entry["audio_filepath"]}'
      entry['id'] = f'{name}-{entry["id"]}' + (f'-{copy}' if star else '')
      yield entry
