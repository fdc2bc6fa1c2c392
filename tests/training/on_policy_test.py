# SPDX-License-Identifier: Apache-2.0
"""On-policy answers against references that run one prompt at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acl_jax import build, build_adapter
from acl_jax.batches.ctc import CTCBatchAssembler, CTCLabels
from acl_jax.batches.on_policy import (
  Answer,
  PromptedBatchAssembler,
  ScoredAnswer,
  answer_limits,
  make_answer_batch,
  target_checksum,
)
from acl_jax.batches.responses import ResponseBatchAssembler
from acl_jax.models.llama import Llama
from acl_jax.models.speech_llm import SpeechLLM, causal_segment_mask
from acl_jax.sharding.arrays import to_device
from acl_jax.targets.store import Targets
from acl_jax.training import step
from acl_jax.training.on_policy import OnPolicy
from data_pipeline.batches import BatchPlan
from tests.tiny_source import TinySource, tokens_of
from tests.tiny_world import TEXTS, TOP_K, load_config

LENGTHS = [15 + 2 * i for i in range(len(TEXTS) - 1)]
MAX_NEW_TOKENS, WIDTH, STACK = 5, 3, 2  # width: of the frames of `TinySource`
STRIDE = dict(kind='stride', stack=STACK, hidden_size=16)
ON_POLICY = dict(
  weight=0.7,
  refresh_every=2,
  max_new_tokens=MAX_NEW_TOKENS,
  sampling=dict(temperature=0.0, top_k=0, top_p=1.0),
)
PACKED = {'data.row_tokens': 90, 'data.row_frames': 60}
PLAN = BatchPlan(((2, 5), (0,)), rows=3, length=60, max_frames=28, max_per_row=2)
PLACES = {(0, 0): 2, (0, 1): 5, (1, 0): 0}


class World:
  """A stride adapter behind frames of width 3, and the batches of `PLAN`."""

  def __init__(self, tiny_world, **changes):
    changes = PACKED | {'adapter': STRIDE, 'response.on_policy': ON_POLICY} | changes
    self.config = config = load_config(tiny_world, **changes)
    self.text = text = build.load_text_frontend(config.llama, config.template)
    self.source = TinySource(TEXTS[:-1], LENGTHS)
    tokens = tokens_of(self.source, text.tokenizer.encode)
    audio = CTCBatchAssembler(self.source, CTCLabels([]), tokens, STACK, 0, False)
    targets = Targets(tiny_world / 'targets')
    self.assembler = ResponseBatchAssembler(audio, text, targets, TOP_K, 90)
    prompted = PromptedBatchAssembler(self.assembler, text)
    llama = build.load_frozen_llama(config.llama)
    adapter = build_adapter.new_adapter(config.adapter, 0, WIDTH, 24, [], str)
    # Otherwise its embeddings would be too small to be heard.
    adapter.linear_2[...] = 30 * adapter.linear_2[...]
    self.model = SpeechLLM(build.load_encoder(config.encoder), adapter, llama)
    self.on_policy = OnPolicy(config, prompted, lambda state: self.model, [PLAN] * 9)
    self.batch = self.assembler(PLAN)

  def extend(self, number=1):
    return self.on_policy.extend(number, None, self.batch, to_device(self.batch))

  def loss(self, arrays):
    loss = functools.partial(
      step.response_loss, encoder_trains=False, stage=self.config.response
    )
    return jax.jit(loss)(self.model, arrays, jax.random.key(0))

  def prompt_with_audio(self, utterance):
    """The embeddings of a prompt, of audio alone and then laid out by hand."""
    frames = self.source.read([utterance])[0]['frames'].astype(np.float32)[None]
    clip, _ = self.model.adapt(jnp.asarray(frames), jnp.ones(frames.shape[:2], bool))
    before, _, after = self.text.audio_prompt()
    embed = self.model.llama.embed
    parts = [embed(jnp.asarray(before)), clip[0], embed(jnp.asarray(after))]
    return jnp.concatenate(parts)

  def written_prompt(self, utterance):
    [prompt] = self.text.prompt(TEXTS[utterance])
    return self.model.llama.embed(jnp.asarray(prompt))

  def log_probs(self, prompt, tokens):
    """Log-probabilities at every token of a response to a prompt."""
    x = jnp.concatenate([prompt, self.model.llama.embed(jnp.asarray(tokens))])[None]
    log_probs = _log_probs(self.model.llama, x)
    return np.asarray(log_probs)[len(prompt) - 1 : len(x[0]) - 1]


@jax.jit
def _log_probs(llama: Llama, x):
  ones = jnp.ones(x.shape[:2], jnp.int32)
  hidden, _ = llama(x, *causal_segment_mask(ones))
  return jax.nn.log_softmax(llama.logits(hidden))[0]


@pytest.fixture(scope='module')
def world(tiny_world):
  return World(tiny_world)


@pytest.fixture(scope='module')
def arrays(world):
  return world.extend()


def tokens_at(answers, place):
  count = int(answers.weight[place].sum())
  return answers.targets[place][:count].tolist()


def test_answers_are_those_of_the_student_to_audio(world, arrays):
  *_, answers = arrays
  stop_ids = world.text.tokenizer.stop_ids
  seen = set()
  for place, utterance in PLACES.items():
    tokens = tokens_at(answers, place)
    seen.add(tuple(tokens))
    log_probs = world.log_probs(world.prompt_with_audio(utterance), tokens)
    assert log_probs.argmax(axis=-1).tolist() == tokens
    assert len(tokens) == MAX_NEW_TOKENS or tokens[-1] in stop_ids
  assert len(seen) > 1  # the audio makes a difference
  assert not answers.weight[1, 1].any() and not answers.weight[2].any()


def test_the_teacher_reads_the_written_prompt(world, arrays):
  *_, answers = arrays
  for place, utterance in PLACES.items():
    tokens = tokens_at(answers, place)
    log_probs = world.log_probs(world.written_prompt(utterance), tokens)
    r = len(tokens)
    ids, top = answers.top_ids[place][:r], answers.top_log_probs[place][:r]
    expected = -np.sort(-log_probs)[:, :TOP_K]
    np.testing.assert_allclose(top, expected, atol=1e-2)  # float16
    picked = np.take_along_axis(log_probs, np.asarray(ids), axis=1)
    np.testing.assert_allclose(picked, expected, atol=1e-4)


def test_the_loss_is_the_divergence_at_the_tokens_of_the_answers(world, arrays):
  *_, answers = arrays
  divergences = []
  for place, utterance in PLACES.items():
    tokens = tokens_at(answers, place)
    student = world.log_probs(world.prompt_with_audio(utterance), tokens)
    teacher = world.log_probs(world.written_prompt(utterance), tokens)
    ids = np.argsort(-teacher)[:, :TOP_K]
    p, q = (np.take_along_axis(np.exp(x), ids, axis=1) for x in (teacher, student))
    p, q = (np.c_[x, 1 - x.sum(axis=1)] for x in (p, q))  # all other tokens
    divergences += (p * np.log(p / q)).sum(axis=1).tolist()
  value, parts = world.loss(arrays)
  np.testing.assert_allclose(parts['on_policy_kl'], np.mean(divergences), rtol=2e-3)
  plain, of_targets = world.loss(arrays[:2])
  assert set(parts) == {*of_targets, 'on_policy_kl'}
  np.testing.assert_allclose(value, plain + 0.7 * parts['on_policy_kl'], rtol=1e-5)


def test_sampled_answers_depend_on_seed_and_step_alone(tiny_world):
  sampling = dict(temperature=1.5, top_k=0, top_p=1.0)
  changes = {'response.on_policy': ON_POLICY | {'sampling': sampling}}
  first, again = (World(tiny_world, **changes) for _ in range(2))
  other = World(tiny_world, **changes, seed=1)
  steps = [[w.extend(number)[2] for number in (1, 2)] for w in (first, again, other)]
  jax.tree.map(np.testing.assert_array_equal, steps[0], steps[1])
  targets = [np.asarray(batch.targets).tolist() for batch in (*steps[0], *steps[2])]
  assert all(a != b for i, a in enumerate(targets) for b in targets[:i])


def test_restored_answers_are_scored_again(tiny_world, world):
  world.extend()
  metadata = world.on_policy.metadata(1)
  assert set(metadata['answers']) == {'2'}
  restored = World(tiny_world)
  restored.on_policy.restore(metadata)
  restored.model.adapter.linear_2[...] = 0 * restored.model.adapter.linear_2[...]
  expected, actual = world.extend(2)[2], restored.extend(2)[2]
  jax.tree.map(np.testing.assert_array_equal, expected, actual)


@pytest.mark.parametrize('text', ['', '1 2 3 4 5 6', '1 x'])
def test_damaged_answers_are_refused(world, text):
  metadata = world.on_policy.metadata(0)
  metadata['answers'] = {'1': [[0, 0, 5, text]]}
  with pytest.raises(ValueError, match=r'answers of the checkpoint cannot be read'):
    world.on_policy.restore(metadata)


def test_answers_of_other_settings_are_generated_anew(world):
  metadata = world.on_policy.metadata(0)
  metadata['settings']['weight'] = 2.0
  before = world.on_policy.answers
  world.on_policy.restore(metadata | {'answers': {}})
  assert world.on_policy.answers is before


def test_the_longest_answers_fit_in_their_rows(world):
  _, response = world.batch
  limits = answer_limits(response, 100)
  answers = {
    place: ScoredAnswer(
      Answer(target_checksum(response, place), (7,) * limit),
      np.zeros((limit, TOP_K), np.int32),
      np.zeros((limit, TOP_K), np.float16),
    )
    for place, limit in limits.items()
  }
  batch = make_answer_batch(response, answers, max(limits.values()), TOP_K)
  free = np.count_nonzero(batch.prompt.segment_ids[:2] == 0, axis=1)
  assert (free < [2, 1]).all()  # less than a token for each prompt of the row
  assert {place: int(batch.weight[place].sum()) for place in limits} == limits
  place, scored = next(iter(answers.items()))
  shifted = scored._replace(answer=scored.answer._replace(target=1))
  batch = make_answer_batch(response, {place: shifted}, 100, TOP_K)
  assert not batch.weight.any()
