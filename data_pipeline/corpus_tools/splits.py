# SPDX-License-Identifier: Apache-2.0
"""Training and held-out manifests with disjoint speakers, sources and sentences."""

import dataclasses
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from acl_jax.runtime.files import open_atomically
from data_pipeline.corpora import manifest
from data_pipeline.corpora.utterance import BadUtterance, Utterance
from data_pipeline.corpus_tools.manifests import choose_id, find_manifest

_NAME = re.compile(r'[\w-]{1,64}')


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """A held-out set: so many lines, or all, of whole manifests and of speakers."""

  name: str
  lines: int | None
  manifests: tuple[Path, ...]
  speakers: frozenset[str]  # of the training manifests

  @classmethod
  def parse(cls, spec: str) -> 'HeldOut':
    """Return the set of `NAME:LINES:SOURCE,…`; a source is a path or `@SPEAKER`.

    LINES may be `all`.
    """
    name, _, rest = spec.partition(':')
    lines, _, sources = rest.partition(':')
    names = [source for source in sources.split(',') if source]
    if not _NAME.fullmatch(name) or not re.fullmatch('all|[1-9][0-9]{0,8}', lines):
      names = []
    if not names or name == 'train':
      raise ValueError(
        f'held-out set {spec!r} is not NAME:LINES:SOURCE,… with folders, manifests or'
        " @speakers, such as 'dialogue:150:drama' (NAME is not 'train')"
      )
    paths = tuple(find_manifest(Path(n)) for n in names if n[0] != '@')
    speakers = frozenset(n[1:] for n in names if n[0] == '@')
    return cls(name, None if lines == 'all' else int(lines), paths, speakers)


@dataclasses.dataclass
class Counts:
  """What became of the lines of all manifests."""

  training: int = 0
  held_out: dict[str, int] = dataclasses.field(default_factory=dict)
  held_out_source: int = 0  # by a held-out speaker, or the audio of a held-out manifest
  held_out_sentence: int = 0  # other training lines whose sentence is held out
  unusable: int = 0
  first_reason: str = ''  # of an unusable line


@dataclasses.dataclass(frozen=True)
class _Line:
  entry: dict[str, Any]  # with an absolute path and an id
  utterance: Utterance


def normalize(text: str) -> str:
  """Return the letters and digits of a text in lower case."""
  return ''.join(filter(str.isalnum, text.lower()))


def hold_out(
  training: Sequence[Path],
  sets: Sequence[HeldOut],
  output: Path,
  *,
  seed: int = 0,
  min_words: int = 3,
) -> Counts:
  """Write `train.jsonl` and a manifest of every held-out set, with absolute paths.

  A held-out set has distinct sentences of at least `min_words` words, as many by each
  speaker as by any other, unless it has all lines of its sources. Training has no line
  by a held-out speaker, of a held-out manifest or with the sentence of a held-out line.
  Everything depends on the manifests and the seed alone.

  ValueError if a set has too few lines, a speaker none, or an id is not unique.
  """
  counts = Counts()
  train_lines = [line for path in training for line in _read(path, counts)]
  pools = [_candidates(each, train_lines, counts) for each in sets]
  sentences: set[str] = set()
  chosen: dict[str, list[_Line]] = {}
  for each, pool in zip(sets, pools, strict=True):
    rng = random.Random(f'{seed}/{each.name}')
    chosen[each.name] = _choose(each, pool, min_words, sentences, rng)
    counts.held_out[each.name] = len(chosen[each.name])
  reserved = {line.utterance.audio_filepath for pool in pools for line in pool}
  kept = []
  for line in train_lines:
    if line.utterance.audio_filepath in reserved:
      counts.held_out_source += 1
    elif normalize(line.utterance.text) in sentences:
      counts.held_out_sentence += 1
    else:
      kept.append(line)
  counts.training = len(kept)
  _check_ids([*kept, *(line for lines in chosen.values() for line in lines)])
  output.mkdir(parents=True, exist_ok=True)
  for name, lines in (*chosen.items(), ('train', kept)):
    with open_atomically(output / f'{name}.jsonl') as file:
      for line in lines:
        file.write(json.dumps(line.entry, ensure_ascii=False) + '\n')
  return counts


def _read(path: Path, counts: Counts) -> Iterator[_Line]:
  """Yield the usable lines of a manifest; ids become `folder-id`."""
  folder = path.parent.resolve()
  ids: dict[str, str | None] = {}

  def parse(entry: dict[str, Any]) -> _Line:
    utterance = manifest.from_entry(entry, folder)
    id = f'{folder.name}-{choose_id(utterance, ids)}'
    new = {'audio_filepath': str(utterance.audio_filepath), 'id': id}
    return _Line(entry | new, utterance)

  for line in manifest.read_lines(path, parse):
    if isinstance(line, BadUtterance):
      counts.unusable += 1
      counts.first_reason = counts.first_reason or line.reason
    else:
      yield line


def _candidates(
  held_out: HeldOut, train_lines: Sequence[_Line], counts: Counts
) -> list[_Line]:
  """Return all lines of the manifests and speakers of a set."""
  pool = [line for path in held_out.manifests for line in _read(path, counts)]
  spoken = [line for line in train_lines if line.utterance.speaker in held_out.speakers]
  known = {line.utterance.speaker for line in spoken}
  for speaker in sorted(held_out.speakers):
    if speaker not in known:
      raise ValueError(
        f'held-out set {held_out.name}: no training manifest has the speaker'
        f' {speaker!r}'
      )
  return pool + spoken


def _choose(
  held_out: HeldOut,
  pool: Sequence[_Line],
  min_words: int,
  taken: set[str],
  rng: random.Random,
) -> list[_Line]:
  """Return the lines of a set in the order of its pool; adds their sentences."""
  if held_out.lines is None:
    taken.update(filter(None, (normalize(line.utterance.text) for line in pool)))
    return list(pool)
  by_speaker: dict[str | None, list[int]] = defaultdict(list)
  for number, line in enumerate(pool):
    by_speaker[line.utterance.speaker].append(number)
  for numbers in by_speaker.values():
    rng.shuffle(numbers)
  chosen: list[int] = []
  while len(chosen) < held_out.lines and any(by_speaker.values()):
    for numbers in by_speaker.values():
      while numbers and len(chosen) < held_out.lines:
        number = numbers.pop()
        text = pool[number].utterance.text
        sentence = normalize(text)
        if sentence and sentence not in taken and len(text.split()) >= min_words:
          taken.add(sentence)
          chosen.append(number)
          break
  if len(chosen) < held_out.lines:
    raise ValueError(
      f'held-out set {held_out.name}: {held_out.lines} lines are asked for, but only'
      f' {len(chosen)} distinct sentences have at least {min_words} words'
    )
  return [pool[number] for number in sorted(chosen)]


def _check_ids(lines: Sequence[_Line]) -> None:
  paths: dict[str, str] = {}
  for line in lines:
    id, path = line.entry['id'], line.entry['audio_filepath']
    if id in paths:
      raise ValueError(
        f'{paths[id]} and {path}: both have the id {id!r}; rename one of the folders'
      )
    paths[id] = path
