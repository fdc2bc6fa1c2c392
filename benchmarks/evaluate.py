# SPDX-License-Identifier: Apache-2.0
"""Compare `evaluate` with the plainest loop: one conversation after another.

  .venv/bin/python benchmarks/evaluate.py --examples=24

The examples are shipped recordings, answered in all six arms: the text, the audio, the
transcript of Whisper, the model's own, the audio of another recording, and nothing. The
loop asks each as a new conversation of `acl_jax.load`; it transcribes each recording
once, with all cores, and remembers what it heard. Both run once before they are
measured, so that nothing compiles. They take turns: in every round `evaluate` answers
all examples, and the loop its share of them, so other work on the machine slows both.
The last line is JSON; a ratio above 1 means that `evaluate` is faster.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))  # this checkout, installed or not

import acl_jax
from acl_jax import assets
from acl_jax.assistant import Assistant
from acl_jax.evaluation.arms import choose_partners
from acl_jax.evaluation.cascade import Recogniser
from acl_jax.evaluation.runner import Runner
from acl_jax.evaluation.tasks.task import Case, Speech, TaskTurn
from acl_jax.weights.fingerprint import describe
from benchmarks.machine import print_result
from data_pipeline import audio, corpora
from data_pipeline.corpora.utterance import Utterance

_CONFIG = flags.DEFINE_string('config', 'configs/smol.py', 'the model')
_EXAMPLES = flags.DEFINE_integer('examples', 24, 'recordings', lower_bound=2)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'turns of each', lower_bound=1)
_TOKENS = flags.DEFINE_integer('max_new_tokens', 64, 'of an answer', lower_bound=1)
_WHISPER = flags.DEFINE_string('cascade', 'asset:whisper-base', 'of the cascade')

RECORDINGS = Path(__file__).parent.parent / 'data_pipeline/recordings/manifest.jsonl'
MIN_WORDS = 5

Answers = list[dict[str, str]]  # of each case, by arm


def read_cases(count: int) -> list[Case]:
  """Return recordings of several words; ValueError if there are too few."""
  utterances = [
    each
    for each in corpora.open_corpus('manifest', RECORDINGS)
    if isinstance(each, Utterance) and len(each.text.split()) >= MIN_WORDS
  ]
  if len(utterances) < count:
    raise ValueError(f'--examples={count}: there are {len(utterances)} recordings')
  return [
    Case(each.id, (TaskTurn('user', (Speech(each),)),), _TOKENS.value)
    for each in utterances[:count]
  ]


def answer_together(
  assistant: Assistant, recogniser: Recogniser, cases: Sequence[Case], digest: str
) -> Answers:
  """Answer all cases in all arms as `evaluate` does, without anything from before."""
  with tempfile.TemporaryDirectory() as folder:
    parts = assistant.model, assistant.text, assistant.hearing
    runner = Runner(*parts, recogniser, Path(folder), digest)
    answers = runner.run({'recordings': cases}).tasks['recordings'].answers
  return [
    {arm: each[index].text for arm, each in answers.items()}
    for index in range(len(cases))
  ]


def answer_one_by_one(
  assistant: Assistant,
  recogniser: Recogniser,
  cases: Sequence[Case],
  indices: Sequence[int],
) -> Answers:
  """Answer the cases at these indices in each arm in a conversation of its own."""
  answers, partners = [], choose_partners(cases)
  for index in indices:
    case, partner = cases[index], partners[index]
    [speech] = case.speech
    assert partner is not None
    waveform = speech.utterance.read(audio.Limits())
    [other] = cases[partner].speech
    clips = {'audio': waveform, 'shuffled_audio': other.utterance.read(audio.Limits())}
    texts = {
      'text': speech.utterance.text,
      'cascade': recogniser(waveform),
      'cascade_ctc': assistant.transcribe(waveform),
      'no_audio': ' ',  # a turn may not be empty
    }
    limit = case.max_new_tokens
    asked = {
      arm: assistant.answer(clip, max_new_tokens=limit) for arm, clip in clips.items()
    }
    for arm, text in texts.items():
      if text:
        asked[arm] = assistant.answer(text=text, max_new_tokens=limit)
    answers.append({arm: text.strip() for arm, text in asked.items()})
  return answers


def forget(assistant: Assistant) -> Assistant:
  """Return the same model, which has heard nothing yet."""
  fresh = Assistant(assistant.model, assistant.text, assistant.decode_transcript)
  fresh.__dict__['engine'] = assistant.engine
  return fresh


def main(argv: Sequence[str]) -> None:
  """Measure both; prints JSON."""
  del argv
  cases = read_cases(_EXAMPLES.value)
  assistant = acl_jax.load(_CONFIG.value)
  whisper = assets.resolve(_WHISPER.value)
  recogniser, recogniser_alone = Recogniser(whisper), Recogniser(whisper, at_once=1)
  digest = describe(assistant.model.llama)['sha256']
  answer_together(assistant, recogniser, cases, digest)
  few = [dataclasses.replace(case, max_new_tokens=2) for case in cases]
  every = range(len(cases))
  answer_one_by_one(assistant, recogniser_alone, few, every)

  together: Answers = []
  alone: dict[int, dict[str, str]] = {}
  loop, rounds = forget(assistant), _ROUNDS.value
  seconds = seconds_alone = 0.0
  for number in range(rounds):
    start = time.perf_counter()
    together = answer_together(forget(assistant), recogniser, cases, digest)
    middle = time.perf_counter()
    share = every[number::rounds]
    answers = answer_one_by_one(loop, recogniser_alone, cases, share)
    alone |= zip(share, answers, strict=True)
    mine, theirs = middle - start, time.perf_counter() - middle
    print(
      f'together: {len(cases)} examples in six arms in {mine:.1f} s; one by one:'
      f' {len(share)} in {theirs:.1f} s',
      flush=True,
    )
    seconds, seconds_alone = seconds + mine / rounds, seconds_alone + theirs
  equal = [
    mine[arm] == theirs[arm]
    for mine, theirs in ((together[index], alone[index]) for index in every)
    for arm in theirs
    if arm in mine and arm != 'no_audio'
  ]
  print(f'{sum(equal)} of {len(equal)} answers are equal')
  figures = {
    'examples_per_minute': round(60 * len(cases) / seconds, 2),
    'ratio_vs_one_by_one': round(seconds_alone / seconds, 2),
  }
  print_result(figures)


if __name__ == '__main__':
  app.run(main)
