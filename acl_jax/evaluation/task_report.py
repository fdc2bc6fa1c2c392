# SPDX-License-Identifier: Apache-2.0
"""What is written of tasks: their part of report.json, and `cases.jsonl`, with every
case, what was heard of it, its answers and their scores.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acl_jax.evaluation.heard_speech import HeardSpeech
from acl_jax.evaluation.runner import Results
from acl_jax.evaluation.task_summary import (
  Scores,
  complete_cases,
  score_answers,
  summarise_task,
)
from acl_jax.evaluation.tasks.task import Case, Speech, Task
from acl_jax.runtime.files import open_atomically


def summarise_tasks(
  tasks: Mapping[str, Task], results: Results, path: Path
) -> dict[str, Any]:
  """Return `tasks` of report.json, and write the cases to a file.

  ValueError if no case could be answered.
  """
  if not results.tasks:
    first = results.skipped[0].reason
    raise ValueError(f'none of {len(results.skipped)} cases can be used: {first}')
  answered = {
    name: complete_cases(tasks[name], result) for name, result in results.tasks.items()
  }
  scores = {name: score_answers(tasks[name], each) for name, each in answered.items()}
  write_case_lines(path, dataclasses.replace(results, tasks=answered), scores)
  return {
    name: summarise_task(tasks[name], result, scores[name])
    for name, result in answered.items()
  }


def write_case_lines(
  path: Path, results: Results, scores: Mapping[str, Mapping[str, Scores]]
) -> None:
  """Write one JSON object per case; see docs/evaluation.md.

  scores: by task and arm.
  """
  with open_atomically(path) as file:
    for name in results.tasks:
      for line in _case_lines(name, results, scores[name]):
        file.write(json.dumps(line, default=_to_json) + '\n')


def _case_lines(
  name: str, results: Results, scores: Mapping[str, Scores]
) -> Iterator[dict[str, Any]]:
  result = results.tasks[name]
  for index, case in enumerate(result.cases):
    yield {
      'task': name,
      'id': case.id,
      'group': case.group,
      'line': case.line or case.id,
      'turns': _turns(case, results.heard),
      'expected': case.expected,
      'answers': {
        arm: {'text': answers[index].text, 'scores': scores[arm][index]}
        for arm, answers in result.answers.items()
      },
    }


def _turns(case: Case, heard: Mapping[Speech, HeardSpeech]) -> list[dict[str, Any]]:
  return [
    {
      'role': turn.role,
      'content': [
        _describe(part, heard[part]) if isinstance(part, Speech) else part
        for part in turn.content
      ],
    }
    for turn in case.turns
  ]


def _describe(speech: Speech, heard: HeardSpeech) -> dict[str, Any]:
  """Return what was spoken.

  `audio` is a file of what was heard; None if that is only a part of a file.
  """
  utterance = speech.utterance
  is_file = not (
    utterance.span or utterance.stretch or utterance.example or utterance.row
  )
  path = heard.degraded or (utterance.audio_filepath if is_file else None)
  transcripts = {'audio': heard.transcript, 'cascade': heard.cascade_transcript}
  return {
    'text': utterance.text,
    'audio': str(path) if path else None,
    'degradation': speech.degradation,
    'heard': {arm: text for arm, text in transcripts.items() if text is not None},
    'tokens': heard.tokens,
  }


def _to_json(value: Any) -> Any:
  """Return what a task expects as JSON."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return dataclasses.asdict(value)
  return str(value)
