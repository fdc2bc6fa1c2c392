# SPDX-License-Identifier: Apache-2.0
"""The arms: what stands for what was said, in otherwise equal conversations."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from acl_jax.evaluation.examples import random_derangement
from acl_jax.evaluation.heard_speech import HeardSpeech
from acl_jax.evaluation.prompt_batches import PromptCase
from acl_jax.evaluation.tasks.task import Case, Speech, TaskTurn
from acl_jax.text.frontend import TextFrontend
from acl_jax.text.templates import Audio, Turn

ARMS = ('text', 'audio', 'cascade', 'cascade_ctc', 'shuffled_audio', 'no_audio')

StandIn = str | Float[np.ndarray, '_ e']  # text or a clip; lengths differ


@dataclasses.dataclass(frozen=True, eq=False)
class ArmPrompt:
  """A case in an arm.

  heard: what stands for each `Speech` as text; None in the arms where no text does.
  """

  prompt: PromptCase
  heard: tuple[str | None, ...]


def available_arms(
  cases: Sequence[Case], has_ctc: bool, has_cascade: bool
) -> list[str]:
  """Return the arms that these cases can be answered in.

  has_ctc: whether the model has transcripts of its own.
  """
  missing = {
    'cascade': not has_cascade,
    'cascade_ctc': not has_ctc,
    'shuffled_audio': None in choose_partners(cases),
  }
  return [arm for arm in ARMS if not missing.get(arm)]


def choose_partners(cases: Sequence[Case]) -> list[int | None]:
  """Return for each case the index of one where other words are spoken.

  A case without speech is its own partner. None where nothing else is spoken in any.
  """
  groups: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
  partners: list[int | None] = [*range(len(cases))]
  for index, case in enumerate(cases):
    if said := tuple(speech.utterance.text for speech in case.speech):
      groups[said].append(index)
  members = [*groups.values()]
  order = random_derangement(len(members))
  for number, group in enumerate(members):
    for place, index in enumerate(group):
      # Cases of equal words differ in noise or context: take the same of the others.
      others = members[order[number]] if order is not None else []
      partners[index] = others[place % len(others)] if others else None
  return partners


def build_prompts(
  text: TextFrontend,
  case: Case,
  partner: Case | None,
  arms: Sequence[str],
  heard: Mapping[Speech, HeardSpeech],
) -> dict[str, ArmPrompt]:
  """Return the prompt of a case in each arm; ValueError if the template refuses it.

  partner: whose audio stands for that of the case in `shuffled_audio`, clean if that
  was heard: the wrong words say the same whatever is done to their audio.
  """
  prompts = {}
  for arm in arms:
    stand_ins = [
      _stand_in(arm, speech, heard, partner, number)
      for number, speech in enumerate(case.speech)
    ]
    spoken = tuple(
      each if isinstance(each, str) and arm != 'no_audio' else None
      for each in stand_ins
    )
    prompts[arm] = ArmPrompt(_fill(text, case.turns, stand_ins), spoken)
  return prompts


def _stand_in(
  arm: str,
  speech: Speech,
  heard: Mapping[Speech, HeardSpeech],
  partner: Case | None,
  number: int,
) -> StandIn:
  """Return what stands in an arm for the speech of this number in its case."""
  if arm == 'text':
    return speech.utterance.text
  if arm == 'no_audio':
    return ''
  if arm == 'shuffled_audio':
    assert partner is not None
    other = partner.speech[number % len(partner.speech)]
    return heard.get(Speech(other.utterance), heard[other]).clip
  if arm == 'audio':
    return heard[speech].clip
  is_cascade = arm == 'cascade'
  of_speech = heard[speech]
  text = of_speech.cascade_transcript if is_cascade else of_speech.transcript
  assert text is not None, f'{arm} is not available'
  return text


def _fill(
  text: TextFrontend, turns: Sequence[TaskTurn], stand_ins: Sequence[StandIn]
) -> PromptCase:
  """Return the prompt of turns, with the stand-ins for the speech in them, in order."""
  remaining, clips, filled = iter(stand_ins), [], []
  for turn in turns:
    content: list[str | Audio] = []
    for part in turn.content:
      stand_in = next(remaining) if isinstance(part, Speech) else part
      if isinstance(stand_in, str):
        content.append(stand_in)
      else:
        content.append(Audio(len(clips)))
        clips.append(stand_in)
    filled.append(Turn(turn.role, tuple(content)))
  return PromptCase(text.conversation_prompt(filled), clips)
