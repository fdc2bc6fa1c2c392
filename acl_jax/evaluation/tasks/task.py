# SPDX-License-Identifier: Apache-2.0
"""What a task is: how a line of a manifest becomes cases, and how an answer is scored.

A case is a conversation whose last turn is to be answered. Every arm answers the same
cases and differs only in what stands for what was said: the written text, the audio,
the transcript of a recogniser, the audio of another case, or nothing.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from data_pipeline.corpora.utterance import Utterance


@dataclasses.dataclass(frozen=True)
class Speech:
  """Something that is spoken within a turn.

  utterance: its audio, and what it says. degradation: a key of
  `acl_jax.evaluation.degradations.DEGRADATIONS`, applied to the audio; '' for none.
  """

  utterance: Utterance
  degradation: str = ''


@dataclasses.dataclass(frozen=True)
class TaskTurn:
  """A message; `role` is 'system', 'user' or 'assistant'."""

  role: str
  content: tuple[str | Speech, ...]


@dataclasses.dataclass(frozen=True)
class Case:
  """A conversation to be answered.

  id: unique within its task. max_new_tokens: of the answer; 0 if none is generated.
  continuations: texts whose likelihood as the answer is measured. group: what the
  figures are also given by, such as a pattern or a language. expected: what `score`
  compares an answer with. line: cases of the same one, such as those of one recording
  under several noises, are not independent, and are drawn together for intervals; ''
  is a line of its own.
  """

  id: str
  turns: tuple[TaskTurn, ...]
  max_new_tokens: int
  continuations: tuple[str, ...] = ()
  group: str = ''
  expected: Any = None
  line: str = ''

  @property
  def speech(self) -> list[Speech]:
    """All that is spoken, in order."""
    parts = (part for turn in self.turns for part in turn.content)
    return [part for part in parts if isinstance(part, Speech)]


@dataclasses.dataclass(frozen=True)
class Answer:
  """What an arm answered.

  text: greedy, stripped; '' if nothing was generated. log_likelihoods: of each
  continuation, in nats, summed over its tokens. num_tokens: of each continuation.
  heard: what stood for each `Speech` as text; None in the arms where no text did.
  """

  text: str
  log_likelihoods: tuple[float, ...] = ()
  num_tokens: tuple[int, ...] = ()
  heard: tuple[str | None, ...] = ()


@runtime_checkable  # beartype checks arguments in tests
class Task(Protocol):
  """An ability.

  metrics: the keys of `score` and `pool`, the headline first. binary: whether the
  headline is 0 or 1 for every case, so that arms can be compared by McNemar's test.
  """

  @property
  def name(self) -> str: ...

  @property
  def metrics(self) -> tuple[str, ...]: ...

  @property
  def binary(self) -> bool: ...

  def applies(self, entry: Mapping[str, Any]) -> bool:
    """Return whether a line of a manifest has the fields of this task."""
    ...

  def parse(self, entry: Mapping[str, Any], folder: pathlib.Path) -> list[Case]:
    """Return the cases of a line of a manifest in `folder`.

    `LineError` names a field that is missing or wrong, and the task.
    """
    ...

  def score(self, case: Case, answer: Answer) -> dict[str, float]:
    """Return the metrics that are means over the cases."""
    ...

  def pool(self, cases: Sequence[Case], answers: Sequence[Answer]) -> dict[str, float]:
    """Return the metrics that are of all cases together, such as BLEU."""
    ...
