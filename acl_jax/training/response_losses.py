# SPDX-License-Identifier: Apache-2.0
"""The losses of the response stage that the LLM computes."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from acl_jax.batches.arrays import ResponseBatch
from acl_jax.config.stages import ResponseStageConfig
from acl_jax.models.speech_llm import SpeechLLM
from acl_jax.training import losses, microbatches
from acl_jax.training.microbatches import Clips


def evaluate(
  model: SpeechLLM,
  clips: Clips,
  responses: Sequence[ResponseBatch],
  stage: ResponseStageConfig,
):
  """Return the loss of the LLM's predictions, and its parts.

  clips: audio embeddings of each row, and their mask. responses: those to imitate and,
  with `stage.on_policy`, the student's answers.
  """
  totals = [jnp.sum(response.weight) for response in responses]
  return microbatches.run(
    lambda clips, responses: _losses(model, clips, responses, totals, stage),
    clips,
    responses,
    stage.microbatches,
  )


def _logits_of_targets(
  model: SpeechLLM,
  response: ResponseBatch,
  clips: Clips,
  remat: str | None,
) -> Float[Array, 'b u v']:
  """Return the logits that predict the targets of each row, padding included.

  clips: audio embeddings of each row, and their mask.
  """
  x, segment_ids = model.splice(response.prompt, *clips)
  hidden = model.hidden_states(
    x, segment_ids, remat, response.shared_prefix, response.targets.shape[1]
  )
  index = response.index.reshape(len(x), -1, 1)
  return model.llama.logits(jnp.take_along_axis(hidden, index, axis=1))


def _kl_to_teacher(
  logits: Float[Array, 'b u v'],
  response: ResponseBatch,
  total: Float[Array, ''],
  temperature: float,
) -> Float[Array, '']:
  """Return KL(teacher || student) at the targets, over the teacher's top tokens."""
  shape = (*logits.shape[:2], response.top_ids.shape[-1])
  teacher = response.top_ids.reshape(shape), response.top_log_probs.reshape(shape)
  weight = response.weight.reshape(shape[:2])
  return losses.top_k_kl(logits, *teacher, weight, temperature, total)


def _losses(
  model: SpeechLLM,
  clips: Clips,
  responses: Sequence[ResponseBatch],
  totals: Sequence[Float[Array, '']],
  stage: ResponseStageConfig,
):
  """As `evaluate`, for rows of a batch; totals: the weight of all its `responses`."""
  response, rows = responses[0], len(responses[0].targets)
  logits = _logits_of_targets(model, response, clips, stage.remat)
  targets = response.targets.reshape(rows, -1)
  weight = response.weight.reshape(rows, -1)
  loss = nll = losses.cross_entropy(logits, targets, weight, totals[0])
  parts = {'response_nll': nll}
  temperature = stage.kl_temperature
  if stage.kl_weight:
    kl = _kl_to_teacher(logits, response, totals[0], temperature)
    loss += stage.kl_weight * kl
    parts['kl'] = kl
  if stage.on_policy and len(responses) > 1:
    logits = _logits_of_targets(model, responses[1], clips, stage.remat)
    on_policy_kl = _kl_to_teacher(logits, responses[1], totals[1], temperature)
    loss += stage.on_policy.weight * on_policy_kl
    parts['on_policy_kl'] = on_policy_kl
  return loss, parts
