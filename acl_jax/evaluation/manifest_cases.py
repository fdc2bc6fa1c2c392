# SPDX-License-Identifier: Apache-2.0
"""From manifests to cases of tasks, chosen by `task`, fields and `--suite`."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from acl_jax.evaluation.tasks.table import ON_REQUEST
from acl_jax.evaluation.tasks.task import Case, Task
from data_pipeline import corpora
from data_pipeline.corpora import manifest, patterns
from data_pipeline.corpora.manifest import LineError, shorten
from data_pipeline.corpora.utterance import AnyUtterance, BadUtterance, Utterance
from data_pipeline.corpora.walk import is_metadata

MODALITY = 'modality'  # likelihoods of the answers to transcripts; see `examples`
MAX_MANIFESTS = 1_000
NEMO_TASKS = ('asr', 'ast')  # of NeMo's own manifests: they name none of ours


@dataclasses.dataclass(frozen=True)
class Selection:
  """What of the manifests is evaluated.

  utterances: for `modality`, as corpus readers yield them; None if it is not of the
  suite. cases: by task. bad: lines that none of the tasks can use.
  """

  utterances: list[AnyUtterance] | None
  cases: dict[str, list[Case]]
  bad: list[BadUtterance]


Tasks = Mapping[str, Task]  # by name


def parse_suite(names: Sequence[str] | None, tasks: Tasks) -> list[str] | None:
  """Check the names of a suite; None stands for what the fields allow."""
  known = [MODALITY, *tasks]
  for name in names or ():
    if name != MODALITY and not _named_tasks(name, tasks):
      raise ValueError(f'--suite: {name!r} is not one of {", ".join(known)}')
  return [*dict.fromkeys(names)] if names else None


def _named_tasks(name: str, tasks: Tasks) -> list[Task]:
  """Return the task of this name, or all `name_*`, as for 'robustness'."""
  if name in tasks:
    return [tasks[name]]
  return [task for other, task in tasks.items() if other.startswith(f'{name}_')]


def find_manifests(path: str | Path) -> list[Path]:
  """Return the manifests of a folder, file or pattern; ValueError if none is there."""
  path = Path(path)
  if path.is_file():
    return [path]
  if not path.is_dir():
    return patterns.expand(path)
  found = sorted(path.glob('*.jsonl'))
  manifests = [each for each in found if not is_metadata(each.name)]
  if not 0 < len(manifests) <= MAX_MANIFESTS:
    raise ValueError(
      f'{path} has {len(manifests)} manifests (*.jsonl); it must have 1 to'
      f' {MAX_MANIFESTS}'
    )
  return manifests


def select(
  path: str | Path,
  suite: Sequence[str] | None,
  limit: int | None,
  tasks: Tasks,
  contained: bool = False,
) -> Selection:
  """Read what is evaluated of a manifest, or of all in a folder.

  suite: see `parse_suite`. limit: lines of each task in each manifest. tasks: all that
  there are. contained: audio outside the folder of its manifest is refused.

  ValueError if a task of the suite has no line.
  """
  manifests = find_manifests(path)
  names = [name for name in tasks if name not in ON_REQUEST] if suite is None else suite
  chosen = {name: _named_tasks(name, tasks) for name in names if name != MODALITY}
  different = {task.name: task for each in chosen.values() for task in each}
  reader = _Reader([*different.values()], suite, limit, tasks, contained)
  for each in manifests:
    if not each.is_file():
      raise FileNotFoundError(f'{each}: the manifest does not exist')
    reader.read(each)
  utterances = None
  if suite is None or MODALITY in suite:
    lines = itertools.chain.from_iterable(
      _read_utterances(each, tasks, suite is not None, contained) for each in manifests
    )
    utterances = [*itertools.islice(corpora.reject_duplicates(lines), limit)]
    usable = any(isinstance(each, Utterance) for each in utterances)
    if suite is None and reader.cases and not usable:
      reader.bad += [each for each in utterances if isinstance(each, BadUtterance)]
      utterances = None
  for name, each in chosen.items() if suite is not None else ():
    if not any(reader.cases.get(task.name) for task in each):
      first = f' The first problem: {reader.bad[0].reason}' if reader.bad else ''
      raise ValueError(f'{path}: no line can be used for the task {name}.{first}')
  return Selection(utterances, reader.cases, reader.bad)


class _Reader:
  """Collects the cases of tasks from manifests.

  suite: None if the fields decide, so that a line of no task is no error.
  """

  def __init__(
    self,
    chosen: Sequence[Task],
    suite: Sequence[str] | None,
    limit: int | None,
    every: Tasks,
    contained: bool,
  ):
    self.chosen, self.limit, self.every = chosen, limit, every
    self.contained = contained
    self.alone = suite is not None and MODALITY not in suite
    self.cases: dict[str, list[Case]] = {}
    self.bad: list[BadUtterance] = []
    self._lines: collections.Counter[str] = collections.Counter()  # of each task
    self._ids: set[tuple[str, str]] = set()

  def read(self, path: Path) -> None:
    """Read a manifest."""
    folder = path.parent.resolve()
    self._lines.clear()
    lines = manifest.read_lines(path, lambda entry: self._parse(entry, folder))
    for line in lines:
      # `modality` reports the lines that are not JSON.
      if isinstance(line, BadUtterance) and (line.field != 'line' or self.alone):
        self.bad.append(line)

  def _parse(self, entry: dict[str, Any], folder: Path) -> None:
    """Add the cases of a line to those of the tasks that it is for."""
    for task in self._choose(entry):
      if self._lines[task.name] == self.limit:
        continue
      self._lines[task.name] += 1
      try:
        cases = task.parse(entry, folder)
        if self.contained:
          _check_contained(cases, folder)
        self._check_ids(task, cases)
      except LineError as error:
        # A task may have named itself, or the one that it varies.
        problem = re.sub(r' \(task \w+\)$', '', str(error))
        problem = problem.removeprefix(f'{error.field} ')
        raise LineError(error.field, f'{problem} (task {task.name})') from None
      self.cases.setdefault(task.name, []).extend(cases)

  def _choose(self, entry: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of the suite that a line is for."""
    if (named := _named_task(entry)) is not None:
      if not any(_is_named(task, entry) for task in self.every.values()):
        known = ', '.join(self.every)
        raise LineError('task', f'is {shorten(named)}, which is not one of {known}')
      return [task for task in self.chosen if _is_named(task, entry)]
    chosen = [task for task in self.chosen if task.applies(entry)]
    if chosen or not self.alone:
      return chosen
    if any(task.applies(entry) for task in self.every.values()):
      return []
    if len(self.chosen) == 1:
      return [*self.chosen]  # which says what is missing
    names = ', '.join(task.name for task in self.chosen)
    raise LineError('task', f'is missing, and the fields are of none of {names}')

  def _check_ids(self, task: Task, cases: Sequence[Case]) -> None:
    ids = [(task.name, case.id) for case in cases]
    for _, id in {*ids} & self._ids:
      raise LineError('id', f'is {shorten(id)}, as that of an earlier line')
    self._ids |= {*ids}


def _check_contained(cases: Sequence[Case], folder: Path) -> None:
  """Raise LineError if a case has audio outside a resolved folder."""
  for speech in itertools.chain.from_iterable(case.speech for case in cases):
    path = speech.utterance.audio_filepath
    if not path.is_relative_to(folder):
      problem = f'{shorten(str(path))} is outside the folder {folder}'
      raise LineError('audio_filepath', problem)


def _named_task(entry: Mapping[str, Any]) -> Any:
  """Return the `task` of a line, if it names one."""
  named = entry.get('task')
  return None if named in NEMO_TASKS else named


def _is_named(task: Task, entry: Mapping[str, Any]) -> bool:
  """Whether the `task` of a line is this one, or one whose lines it takes.

  It takes those of the task that it varies, its `task`, and those of a benchmark that
  it is a part of: `voicebench_sd_qa` takes `voicebench`, if it applies.
  """
  named, name = entry['task'], getattr(task, 'task', task).name
  is_part = isinstance(named, str) and name.startswith(f'{named}_')
  return name == named or (is_part and task.applies(entry))


def _read_utterances(
  path: Path, tasks: Tasks, every_line: bool, contained: bool
) -> Iterator[AnyUtterance]:
  """Yield the utterances of a manifest, or only those for which no task is named."""
  folder = path.parent.resolve()

  def parse(entry: dict[str, Any]) -> AnyUtterance | None:
    if not every_line and not _is_plain(entry, tasks):
      return None
    return manifest.from_entry(entry, folder, contained)

  return (each for each in manifest.read_lines(path, parse) if each is not None)


def _is_plain(entry: Mapping[str, Any], tasks: Tasks) -> bool:
  """Whether a line may be one of `modality`: audio and its transcript."""
  if _named_task(entry) is not None:
    return False
  is_complete = 'audio_filepath' in entry and 'text' in entry
  return is_complete or not any(task.applies(entry) for task in tasks.values())
