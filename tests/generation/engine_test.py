# SPDX-License-Identifier: Apache-2.0
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from acl_jax import assets
from acl_jax.generation.engine import Engine, EngineConfig, Request
from acl_jax.generation.sampling import Sampling
from acl_jax.generation.slots import NGRAM, DecodeRules
from acl_jax.models.llama import Llama, LlamaConfig
from acl_jax.text.templates import Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama, save_llama_hf

SIZES = dict(
  vocab_size=53,
  hidden_size=24,
  intermediate_size=40,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=6,
  rms_norm_eps=1e-5,
  tie_word_embeddings=False,
  max_position_embeddings=96,
)
PREFIX = (5, 2, 8)
DRAWN = Sampling(temperature=0.7)
STOPS = tuple(range(0, 53, 10))
# Few sizes and rules: each is a compilation.
RULES = DecodeRules(stop_ids=STOPS, top=53, steps=4)
SAMPLED = dataclasses.replace(RULES, sampling=DRAWN)


@pytest.fixture(scope='module')
def llama():
  config = LlamaConfig(rope_theta=1e4, **SIZES)
  shapes = jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda w: jnp.asarray(random.normal(scale=0.3, size=w.shape), w.dtype), shapes
  )


def requests(count=23):
  """Prompts and limits of many lengths."""
  random = np.random.default_rng(1)
  return [
    Request(
      id=f'r{number}',
      prompt=tuple(random.integers(0, 53, random.integers(1, 21)).tolist()),
      seed=number,
      max_new_tokens=int(random.integers(1, 13)),
    )
    for number in range(count)
  ]


def decode(llama, wanted, rules=RULES, slots=3, prefix=PREFIX):
  """The responses by id, as numpy arrays, and the engine."""
  config = EngineConfig(slots, prompt_length=20, max_new_tokens=12, rules=rules)
  engine = Engine(llama, config, prefix=prefix, seed=3)
  made = {response.request.id: response for response in engine.run(wanted)}
  assert len(made) == len(wanted)
  return made, engine


@pytest.fixture(scope='module')
def made(llama):
  return {rules: decode(llama, requests(), rules)[0] for rules in (RULES, SAMPLED)}


@jax.jit
def scores(llama, x):
  """Log-probabilities of all next tokens, without a cache."""
  t = x.shape[1]
  mask = jnp.tril(jnp.ones((1, t, t), bool))
  hidden, _ = llama(x, jnp.arange(t)[None], mask)
  return jax.nn.log_softmax(llama.logits(hidden)[0])


def scores_after(llama, prompt, response):
  row = np.zeros((1, 40), np.int32)
  row[0, : len(prompt) + len(response)] = [*prompt, *response]
  after = slice(len(prompt) - 1, len(prompt) - 1 + len(response))
  return np.asarray(scores(llama, llama.embed(jnp.asarray(row))))[after]


def assert_same(got, want, atol=1e-5):
  assert got.tokens.tolist() == want.tokens.tolist()
  assert got.finish_reason == want.finish_reason
  np.testing.assert_allclose(got.log_probs, want.log_probs, atol=atol)
  np.testing.assert_allclose(got.top_log_probs, want.top_log_probs, atol=atol)


@pytest.mark.parametrize('rules', [RULES, SAMPLED], ids=['greedy', 'sampled'])
def test_scores_are_those_of_the_full_forward_pass(llama, made, rules):
  for request in requests():
    response = made[rules][request.id]
    tokens = response.tokens
    expected = scores_after(llama, (*PREFIX, *request.prompt), tokens)
    actual = np.take_along_axis(expected, tokens[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(response.log_probs, actual, atol=2e-5)
    dense = np.zeros_like(expected)
    np.put_along_axis(dense, response.top_ids, response.top_log_probs, axis=1)
    np.testing.assert_allclose(dense, expected, atol=2e-5)
    assert (np.diff(response.top_log_probs) <= 0).all()
    if rules is RULES:
      assert (response.top_ids[:, 0] == tokens).all()
  taken = [(r.top_ids[:, 0] == r.tokens).all() for r in made[rules].values()]
  assert all(taken) == (rules is RULES)


@pytest.mark.parametrize('rules', [RULES, SAMPLED], ids=['greedy', 'sampled'])
def test_a_response_ends_where_it_should(made, rules):
  for request in requests():
    response = made[rules][request.id]
    *before, last = response.tokens.tolist()
    assert not {*before} & {*RULES.stop_ids}
    if response.finish_reason == 'stop':
      assert last in RULES.stop_ids and len(before) < request.max_new_tokens
    else:
      assert response.finish_reason == 'length' and last not in RULES.stop_ids
      assert len(response.tokens) == request.max_new_tokens
  assert {r.finish_reason for r in made[rules].values()} == {'stop', 'length'}


@pytest.mark.parametrize('rules', [RULES, SAMPLED], ids=['greedy', 'sampled'])
@pytest.mark.parametrize('slots', [1, 3, 8])
def test_neither_neighbours_nor_slots_nor_order_matter(llama, made, rules, slots):
  wanted = requests()
  order = np.random.default_rng(slots).permutation(len(wanted))
  got, _ = decode(llama, [wanted[i] for i in order], rules, slots)
  for id, response in made[rules].items():
    assert_same(got[id], response)


@pytest.mark.parametrize('rules', [RULES, SAMPLED], ids=['greedy', 'sampled'])
def test_with_as_many_slots_not_a_bit_depends_on_the_schedule(llama, made, rules):
  some, _ = decode(llama, requests()[:5:-1], rules)
  for id, response in some.items():
    assert_same(response, made[rules][id], atol=0)


def test_the_prefix_is_only_a_saving(llama, made):
  whole = [
    dataclasses.replace(r, prompt=(*PREFIX, *r.prompt))
    for r in requests()
    if len(r.prompt) <= 17
  ]
  got, _ = decode(llama, whole, prefix=())
  for id, response in got.items():
    assert_same(response, made[RULES][id], atol=2e-5)


def test_embeddings_are_as_good_as_tokens(llama, made):
  table = np.asarray(llama.embed_tokens[...])
  mixed = [
    dataclasses.replace(r, prompt=table[list(r.prompt)]) if number % 2 else r
    for number, r in enumerate(requests())
  ]
  got, _ = decode(llama, mixed)
  for id, response in got.items():
    assert_same(response, made[RULES][id])


def test_equals_transformers(tmp_path):
  config = transformers.LlamaConfig(
    **SIZES, initializer_range=0.3, bos_token_id=1, eos_token_id=0
  )
  torch.manual_seed(0)
  oracle = transformers.LlamaForCausalLM(config).eval()
  oracle.save_pretrained(tmp_path)
  got, _ = decode(load_llama(tmp_path), requests())
  for request in requests():
    prompt = [*PREFIX, *request.prompt]
    theirs = oracle.generate(
      torch.tensor([prompt]),
      attention_mask=torch.ones(1, len(prompt), dtype=torch.int),
      max_new_tokens=request.max_new_tokens,
      do_sample=False,
      eos_token_id=list(RULES.stop_ids),
      pad_token_id=0,
    )
    assert got[request.id].tokens.tolist() == theirs[0, len(prompt) :].tolist()


def test_a_free_slot_is_refilled_at_once(llama):
  wanted = requests(120)
  made, engine = decode(llama, wanted)
  done = engine.statistics
  assert done.tokens == sum(len(response.tokens) for response in made.values())
  assert done.full_tokens / (done.full_steps * 3) > 0.97
  assert done.tokens <= done.steps * 3
  longest = [
    max(len(made[r.id].tokens) for r in wanted[start : start + 3])
    for start in range(0, 120, 3)
  ]
  assert done.steps < 0.8 * sum(longest)


def test_tokens_come_before_the_response_is_done(llama, made):
  config = EngineConfig(1, prompt_length=20, max_new_tokens=12, rules=RULES)
  engine = Engine(llama, config, prefix=PREFIX, seed=3)
  asked = []

  def ask():
    for request in itertools.chain(requests(), requests(200)):
      asked.append(request)
      yield request

  for token in engine.stream(ask()):
    assert len(asked) < 100  # it does not wait for the last request
    assert token.id == made[RULES][token.request.id].tokens[0]
    break


def test_samples_follow_the_distribution(llama):
  wanted = [Request(f'{n}', (4, 1, 6), n, max_new_tokens=1) for n in range(4000)]
  rules = DecodeRules(sampling=Sampling(temperature=2.0), steps=4)
  got, _ = decode(llama, wanted, rules, slots=100)
  tokens = [int(response.tokens[0]) for response in got.values()]
  counts = np.bincount(tokens, minlength=SIZES['vocab_size']) / len(tokens)
  expected = jax.nn.softmax(scores_after(llama, (*PREFIX, 4, 1, 6), [0])[0] / 2)
  np.testing.assert_allclose(counts, expected, atol=0.03)


def test_a_repetition_ends_a_response(llama):
  wanted = [dataclasses.replace(r, max_new_tokens=12) for r in requests()]
  free, _ = decode(llama, wanted, DecodeRules(steps=4))
  got, _ = decode(llama, wanted, DecodeRules(repeats=2, steps=4))

  def end(tokens):
    """How many tokens there are until an n-gram comes twice in a row."""
    for stop in range(1, len(tokens) + 1):
      for n in range(1, min(NGRAM, stop // 2) + 1):
        if tokens[stop - n : stop] == tokens[stop - 2 * n : stop - n]:
          return stop
    return None

  for id, response in free.items():
    tokens = response.tokens.tolist()
    stop = end(tokens)
    assert got[id].tokens.tolist() == tokens[:stop]
    assert got[id].finish_reason == ('length' if stop is None else 'repetition')
  assert len({response.finish_reason for response in got.values()}) == 2


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(prompt=()), 'a prompt of 0 tokens; it takes 1 to 20'),
    (dict(prompt=(1,) * 21), 'a prompt of 21 tokens; it takes 1 to 20'),
    (dict(prompt=(53,)), 'tokens should be below 53'),
    (dict(prompt=(-1,)), 'tokens should be below 53'),
    (dict(prompt=np.zeros((2, 23))), 'their width should be 24'),
    (dict(prompt=np.full((2, 24), np.nan)), 'embeddings should be finite'),
    (dict(max_new_tokens=13), 'max_new_tokens is 13, should be 1 to 12'),
  ],
)
def test_a_request_that_cannot_be_met_is_named(llama, change, message):
  bad = dataclasses.replace(Request('odd', (1, 2)), **change)
  with pytest.raises(ValueError, match=f"request 'odd': .*{message}"):
    decode(llama, [bad])


def test_sizes_that_cannot_be_are_refused(llama):
  with pytest.raises(ValueError, match='slots is 0'):
    EngineConfig(0, prompt_length=1, max_new_tokens=1)
  with pytest.raises(ValueError, match='of 90 and 7 new tokens exceed .* of 96'):
    Engine(llama, EngineConfig(1, prompt_length=90, max_new_tokens=7))


def test_smollm2_knows_paris(tmp_path):
  path = assets.resolve('asset:smollm2-135m-instruct')
  llama, tokenizer = load_llama(path), load_tokenizer(path)
  questions = ['What is the capital of France?', 'Name the third planet.']
  prompts = [list(*chatml([Turn('user', text)], tokenizer)) for text in questions]
  rules = DecodeRules(stop_ids=tokenizer.stop_ids)
  engine = Engine(llama, EngineConfig(2, 48, 12, rules))
  wanted = [Request(text, p) for text, p in zip(questions, prompts, strict=True)]
  ours = {response.request.id: response.tokens for response in engine.run(wanted)}
  save_llama_hf(llama, tmp_path)  # its GGUF takes Transformers ten times as long
  oracle = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
  for request in wanted:
    theirs = oracle.generate(
      torch.tensor([request.prompt]),
      max_new_tokens=12,
      do_sample=False,
      eos_token_id=tokenizer.stop_ids[0],
    )
    expected = theirs[0, len(request.prompt) :].tolist()
    assert ours[request.id].tolist() == expected
  answer = tokenizer.decode(ours[questions[0]])
  assert answer == 'The capital of France is Paris.'
