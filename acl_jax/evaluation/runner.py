# SPDX-License-Identifier: Apache-2.0
"""Runs the cases of all tasks in all arms, in one stream."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from acl_jax.evaluation.answers import AnswerRequest, AnswerResult, answer_requests
from acl_jax.evaluation.arms import (
  ArmPrompt,
  available_arms,
  build_prompts,
  choose_partners,
)
from acl_jax.evaluation.cache import ResultCache
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.heard_speech import HeardSpeech, Listener
from acl_jax.evaluation.prompt_batches import prompt_length
from acl_jax.evaluation.tasks.task import Answer, Case, Speech
from acl_jax.hearing.hearing import Hearing
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.runtime.progress import progress
from acl_jax.text.frontend import TextFrontend
from data_pipeline.corpora.utterance import BadUtterance


@dataclasses.dataclass(frozen=True, eq=False)
class TaskResult:
  """The cases of a task that were answered, and the answers to them in each arm."""

  cases: list[Case]
  answers: dict[str, list[Answer]]


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """Results by task; what was heard; the cases that are left out, with reasons."""

  tasks: dict[str, TaskResult]
  heard: dict[Speech, HeardSpeech]
  skipped: list[BadUtterance]


@dataclasses.dataclass(frozen=True, eq=False)
class Runner:
  """What answers cases.

  recogniser: of the cascade; None to leave the cascade out. cache: a folder for what an
  interrupted run resumes from. llm_sha256: identifies the LLM in the cache.
  """

  model: SpeechLLM
  text: TextFrontend
  hearing: Hearing
  recogniser: Recogniser | None
  cache: Path
  llm_sha256: str

  def run(self, cases_by_task: Mapping[str, Sequence[Case]]) -> Results:
    """Answer the cases of all tasks in all arms."""
    listener = Listener(self.hearing, self.recogniser, self.cache)
    every = [case for cases in cases_by_task.values() for case in cases]
    speech = [*dict.fromkeys(part for case in every for part in case.speech)]
    with progress('hear', len(speech)) as advance:
      heard, unheard = listener.listen(speech, advance)
    kept: dict[str, list[Case]] = {}
    prompts: dict[str, list[dict[str, ArmPrompt]]] = {}
    skipped: list[BadUtterance] = []
    for name, cases in cases_by_task.items():
      audible = [case for case in cases if heard.keys() >= {*case.speech}]
      skipped += [
        _unheard(each, unheard) for each in cases if unheard.keys() & each.speech
      ]
      kept[name], prompts[name], refused = self._build_prompts(audible, heard)
      skipped += refused
    return Results(self._answer(kept, prompts), heard, skipped)

  def _build_prompts(
    self, cases: Sequence[Case], heard: Mapping[Speech, HeardSpeech]
  ) -> tuple[list[Case], list[dict[str, ArmPrompt]], list[BadUtterance]]:
    """Return the cases that can be answered, their prompts by arm, and the others."""
    has_ctc = self.hearing.decode is not None
    arms = available_arms(cases, has_ctc, self.recogniser is not None)
    kept, prompts, refused = [], [], []
    for case, partner in zip(cases, choose_partners(cases), strict=True):
      other = None if partner is None else cases[partner]
      try:
        of_case = build_prompts(self.text, case, other, arms, heard)
        self._check_context(case, of_case)
      except ValueError as error:
        refused.append(BadUtterance(case.id, 'turns', f'{case.id}: {error}'))
        continue
      kept.append(case)
      prompts.append(of_case)
    return kept, prompts, refused

  def _check_context(self, case: Case, prompts: Mapping[str, ArmPrompt]) -> None:
    """Raise ValueError if a prompt leaves no space for what follows it."""
    context = self.model.llama.config.max_position_embeddings
    continuations = sum(map(len, self._tokenize(case)))
    limit = context - max(case.max_new_tokens, continuations)
    for arm, each in prompts.items():
      if (length := prompt_length(each.prompt)) > limit:
        raise ValueError(
          f'the `{arm}` prompt is {length} tokens; the limit is {limit}: a context of'
          f' {context} minus the answer. Shorten the conversation'
        )

  def _tokenize(self, case: Case) -> tuple[tuple[int, ...], ...]:
    encode = self.text.tokenizer.encode
    return tuple(tuple(encode(each.strip())) for each in case.continuations)

  def _answer(
    self,
    cases_by_task: Mapping[str, list[Case]],
    prompts: Mapping[str, list[dict[str, ArmPrompt]]],
  ) -> dict[str, TaskResult]:
    """Answer the prompts of all tasks and arms together."""
    requests, places = [], []
    for name, cases in cases_by_task.items():
      for index, case in enumerate(cases):
        continuations = self._tokenize(case)
        for arm, each in prompts[name][index].items():
          places.append((name, arm, each.heard, [*map(len, continuations)]))
          requests.append(
            AnswerRequest(each.prompt, case.max_new_tokens, continuations)
          )
    cache = ResultCache(self.cache / f'answers-{self.llm_sha256[:16]}.jsonl')
    answered = answer_requests(self.model, self.text, requests, cache)
    results = {
      name: TaskResult(cases, {}) for name, cases in cases_by_task.items() if cases
    }
    for (name, arm, heard, counts), result in zip(places, answered, strict=True):
      answers = results[name].answers.setdefault(arm, [])
      answers.append(_to_answer(result, heard, counts))
    return results


def _to_answer(
  result: AnswerResult, heard: tuple[str | None, ...], num_tokens: Sequence[int]
) -> Answer:
  return Answer(result.text, result.log_likelihoods, tuple(num_tokens), heard)


def _unheard(case: Case, reasons: Mapping[Speech, str]) -> BadUtterance:
  """Return why a case is left out: the first of what is spoken that cannot be heard."""
  number, speech = next(
    (number, each) for number, each in enumerate(case.speech, 1) if each in reasons
  )
  where = f', audio {number} of {len(case.speech)}' if len(case.speech) > 1 else ''
  return BadUtterance(case.id, 'audio', f'{case.id}{where}: {reasons[speech]}')
