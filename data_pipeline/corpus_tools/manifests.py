# SPDX-License-Identifier: Apache-2.0
"""Several JSON-lines manifests joined into one."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import write_atomically
from data_pipeline.corpora import manifest
from data_pipeline.corpora.utterance import BadUtterance, Utterance


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

  ValueError if a line is no line of a manifest.
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
    name = manifest.required_string(entry, 'audio_filepath')
    audio = os.path.expanduser(name)
    utterance = manifest.make_utterance({'text': ''} | entry, Path(audio), audio)
    new = {'audio_filepath': (folder / audio).as_posix(), 'utterance': utterance}
    return entry | new

  for copy in range(int(copies or 1)):
    ids: dict[str, str | None] = {}
    for entry in manifest.read_lines(path, rename):
      if isinstance(entry, BadUtterance):
        raise ValueError(entry.reason)
      id = choose_id(entry.pop('utterance'), ids).lstrip('/')
      yield entry | {'id': f'{prefix}-{id}-{copy}' if star else f'{prefix}-{id}'}


def choose_id(utterance: Utterance, seen: dict[str, str | None]) -> str:
  """Return the id of an utterance, or its alternative if another file has the id.

  seen: alternatives by id, to which this one is added.
  """
  id, alternative = utterance.id, utterance.alternative_id
  if alternative and seen.get(id, alternative) != alternative:
    id = alternative
  seen.setdefault(id, alternative)
  return id
