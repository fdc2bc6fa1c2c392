# SPDX-License-Identifier: Apache-2.0
"""Several JSON-lines manifests joined into one."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import write_atomically
from data_pipeline.corpora import manifest
from data_pipeline.corpora.utterance import BadUtterance


def find_manifest(path: Path) -> Path:
  """Return a manifest file, or the `manifest.jsonl` in a folder."""
  found = path / 'manifest.jsonl' if path.is_dir() else path
  if not found.is_file():
    raise FileNotFoundError(f'{found}: the manifest does not exist')
  return found


def join_manifests(parts: Sequence[str], output: str | Path) -> Path:
  """Write the joint manifest of several; returns its path.

  parts: manifests, or folders with a `manifest.jsonl`, named from the folder of
    `output`; `folder*4` repeats its utterances four times. Ids become `folder-id`, or
    `folder-id-2` for repeated ones; a line without an id gets it from its audio.

  ValueError if a line has no audio or a malformed id.
  """
  output = Path(output)
  lines = [
    json.dumps(entry) for part in parts for entry in _read_part(part, output.parent)
  ]
  write_atomically(output, '\n'.join(lines) + '\n')
  return output


def _read_part(part: str, parent: Path) -> Iterator[dict[str, Any]]:
  """Yield the entries of one part with paths relative to `parent` and new ids."""
  name, star, copies = part.partition('*')
  if star and not copies.isdigit():
    raise ValueError(f'{part!r}: write FOLDER, or FOLDER*4 to repeat it four times')
  path = find_manifest(parent / name)
  is_file = path == parent / name
  folder = Path(name).parent if is_file else Path(name)
  prefix = Path(name).stem if is_file else name
  prefix = Path(prefix).name if Path(prefix).is_absolute() else prefix

  def rename(entry: dict[str, Any]) -> dict[str, Any]:
    audio = manifest.required_string(entry, 'audio_filepath')
    id = manifest.get_id(entry, audio)
    return entry | {
      'audio_filepath': (folder / audio).as_posix(),
      'id': f'{prefix}-{id.lstrip("/")}',
    }

  for copy in range(int(copies or 1)):
    for entry in manifest.read_lines(path, rename):
      if isinstance(entry, BadUtterance):
        raise ValueError(entry.reason)
      yield entry | ({'id': f'{entry["id"]}-{copy}'} if star else {})
