# SPDX-License-Identifier: Apache-2.0
"""On-policy distillation: the loss on the student's own answers.

Every few steps the student answers the audio of the batches to come, and the teacher,
the frozen LLM, scores the tokens of these answers after the written prompt. As in GKD
(Agarwal et al. 2023), nothing is differentiated through the choice of the tokens. The
divergence is KL(teacher || student): the student is the same LLM with another input,
so that it can match the teacher's whole distribution, not only a mode of it.

The answers are a function of (seed, step of the refresh, parameters at that step).
Checkpoints contain their tokens; the teacher scores these again after a restart.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from acl_jax.batches.arrays import AudioBatch, ResponseBatch
from acl_jax.batches.on_policy import (
  Answer,
  Place,
  PromptedBatch,
  PromptedBatchAssembler,
  ScoredAnswer,
  make_answer_batch,
)
from acl_jax.config.experiment import TrainConfig
from acl_jax.config.stages import OnPolicyConfig
from acl_jax.generation.engine import EngineConfig
from acl_jax.generation.slots import DecodeRules
from acl_jax.models.lora import remove_lora
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.sharding.arrays import to_device
from acl_jax.sharding.mesh import batch_parts
from acl_jax.training.answers import Answers, Student, generate, score
from data_pipeline.batches import BatchPlan
from data_pipeline.loader import load_batches

Written = Mapping[Place, tuple[int, ...]]  # prompts of one batch

MAX_TOKENS = 1 << 20  # of the answers of a refresh, and so of a checkpoint


class OnPolicy:
  """Adds the student's answers to the batches of the response stage.

  merge: returns the model with the trainable parameters of a state. order: the plan of
  every batch.
  """

  def __init__(
    self,
    config: TrainConfig,
    assemble: PromptedBatchAssembler,
    merge: Callable[[Any], SpeechLLM],
    order: Sequence[BatchPlan],
  ):
    if (processes := jax.process_count()) > 1:
      raise ValueError(
        f'config.response.on_policy runs in one process; this job has {processes}'
      )
    assert config.response and config.response.on_policy
    self.config, self.stage = config, config.response
    self.settings: OnPolicyConfig = config.response.on_policy
    self.assemble, self.merge, self.order = assemble, merge, order
    stop_ids = assemble.text.tokenizer.stop_ids
    self.engine = EngineConfig(
      slots=config.targets.batch_size,
      prompt_length=assemble.max_prompt_length(config.data),
      max_new_tokens=self.settings.max_new_tokens,
      rules=DecodeRules(
        stop_ids, self.settings.sampling, repeats=config.targets.repeats
      ),
    )
    self.answers: dict[int, Answers] = {}  # by step
    self._scored: dict[int, dict[Place, ScoredAnswer]] = {}

  def extend(
    self,
    step: int,
    state: Any,
    batch: tuple[AudioBatch, ResponseBatch],
    arrays: tuple[Any, Any],
  ) -> tuple[Any, Any, Any]:
    """Return the arrays of a step with the answers, generated now if there are none.

    state: before the step. batch, arrays: those of the step on the host and the device.
    """
    if step not in self.answers:
      self._refresh(step, state)
    elif step not in self._scored:  # restored
      remaining = self._load(range(step, max(self.answers) + 1))
      self._score(state, {number: batch.written for number, batch in remaining})
    limits = self.settings.max_new_tokens, self.config.targets.top_k
    answers = make_answer_batch(batch[1], self._scored[step], *limits)
    return *arrays, to_device(answers)

  def metadata(self, step: int) -> dict[str, Any]:
    """Return the answers to the batches after `step`, for a checkpoint."""
    return {
      'settings': dataclasses.asdict(self.settings),
      'answers': {
        str(number): [
          [*place, answer.target, ' '.join(map(str, answer.tokens))]
          for place, answer in answers.items()
        ]
        for number, answers in self.answers.items()
        if number > step
      },
    }

  def restore(self, metadata: Mapping[str, Any]) -> None:
    """Restore what `metadata` returned, unless it is of other settings.

    ValueError if it cannot be read.
    """
    if metadata.get('settings') != dataclasses.asdict(self.settings):
      return
    try:
      self.answers = {
        int(number): dict(map(self._read_answer, rows))
        for number, rows in metadata['answers'].items()
      }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(
        f'the on-policy answers of the checkpoint cannot be read ({error!r}); delete'
        ' the checkpoint to resume from the one before'
      ) from None

  def _read_answer(self, row: Sequence[Any]) -> tuple[Place, Answer]:
    b, k, target, text = row
    tokens = tuple(map(int, text.split()))
    if not 0 < len(tokens) <= self.settings.max_new_tokens:
      raise ValueError(f'an answer has {len(tokens)} tokens')
    return (int(b), int(k)), Answer(int(target), tokens)

  def _refresh(self, step: int, state: Any) -> None:
    """Generate and score the answers from this step to the next refresh."""
    every = self.settings.refresh_every
    stop = min(step + every - (step - 1) % every, self.stage.steps + 1)
    student = Student(
      self.merge(state), self.config.encoder.is_trained, self.engine, self.config.seed
    )
    written: dict[int, Written] = {}

    def batches() -> Iterator[tuple[int, PromptedBatch]]:
      for number, batch in self._load(range(step, stop)):
        written[number] = batch.written
        yield number, batch

    prefix = self.assemble.shared_prefix
    self.answers = generate(student, prefix, batches(), MAX_TOKENS)
    self._scored = {}
    self._score(state, written)

  def _score(self, state: Any, written: Mapping[int, Written]) -> None:
    """Score the answers to the batches whose written prompts are given."""
    teacher = remove_lora(self.merge(state).llama)
    limits = self.settings.max_new_tokens, self.config.targets.top_k
    for number in sorted(written.keys() & self.answers.keys()):
      self._scored[number] = score(
        teacher, written[number], self.answers[number], *limits
      )

  def _load(self, steps: range) -> Iterator[tuple[int, PromptedBatch]]:
    """Yield the steps and their batches, all rows of them."""
    parts, total = batch_parts(jax.sharding.get_mesh())
    indices = range(steps.start - 1, steps.stop - 1)
    batches = load_batches(self.order, self.assemble, indices, parts=parts, total=total)
    return zip(steps, batches, strict=True)
