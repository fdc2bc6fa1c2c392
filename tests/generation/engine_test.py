# SPDX-License-Identifier: Apache-2.0
import contextlib
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
from acl_jax.generation.slots import MAX_NGRAM, DecodeRules
from acl_jax.models.llama import Llama, LlamaConfig
from acl_jax.text.templates import Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama, save_llama

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
STOP_IDS = tuple(range(0, 53, 10))
# Few sizes and rules: each is a compilation.
GREEDY = DecodeRules(stop_ids=STOP_IDS, num_top_tokens=53, steps=4)
SAMPLED = dataclasses.replace(GREEDY, sampling=Sampling(temperature=0.7))
BOTH_RULES = pytest.mark.parametrize(
  'rules', [GREEDY, SAMPLED], ids=['greedy', 'sampled']
)


@pytest.fixture(scope='module')
def torch_thread():
  """One thread: with more, PyTorch's spin when tests run side by side."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def llama():
  config = LlamaConfig(rope_theta=1e4, **SIZES)
  shapes = jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda w: jnp.asarray(random.normal(scale=0.3, size=w.shape), w.dtype), shapes
  )


def make_requests(count=23):
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


def decode(llama, requests, rules=GREEDY, slots=3, prefix=PREFIX, **sizes):
  """Return the responses by id, and the engine; rows have the same length always."""
  length = 20 + len(PREFIX) - len(prefix)
  config = EngineConfig(slots, length, max_new_tokens=12, rules=rules, **sizes)
  engine = Engine(llama, config, shared_prefix=prefix, seed=3)
  responses = {response.request.id: response for response in engine.run(requests)}
  assert len(responses) == len(requests)
  return responses, engine


@pytest.fixture(scope='module')
def responses(llama):
  rules = GREEDY, SAMPLED
  return {each: decode(llama, make_requests(), each)[0] for each in rules}


@jax.jit
def full_log_probs(llama, x):
  """Log-probabilities of all next tokens, without a cache."""
  t = x.shape[1]
  mask = jnp.tril(jnp.ones((1, t, t), bool))
  hidden, _ = llama(x, jnp.arange(t)[None], mask)
  return jax.nn.log_softmax(llama.logits(hidden)[0])


def response_log_probs(llama, prompt, response):
  """Log-probabilities [u v] at every token of a response, in one forward pass."""
  row = np.zeros((1, 40), np.int32)
  row[0, : len(prompt) + len(response)] = [*prompt, *response]
  log_probs = full_log_probs(llama, llama.embed(jnp.asarray(row)))
  return np.asarray(log_probs)[len(prompt) - 1 :][: len(response)]


def assert_same(actual, expected, atol=1e-5):
  assert actual.tokens.tolist() == expected.tokens.tolist()
  assert actual.finish_reason == expected.finish_reason
  np.testing.assert_allclose(actual.log_probs, expected.log_probs, atol=atol)
  np.testing.assert_allclose(actual.top_log_probs, expected.top_log_probs, atol=atol)


def assert_ends_correctly(response, stop_ids, max_new_tokens):
  """At the first stop token, or at the limit."""
  *before, last = response.tokens.tolist()
  assert not {*before} & {*stop_ids}
  if response.finish_reason == 'stop':
    assert last in stop_ids and len(before) < max_new_tokens
  else:
    assert response.finish_reason == 'length' and last not in stop_ids
    assert len(response.tokens) == max_new_tokens


def assert_greedy_in_transformers(reference, responses, prefix=()):
  """Every token is the reference's likeliest, given the prompt and those before it.

  With `assert_ends_correctly`, the response is that of greedy `generate`.
  """
  rows = [[*prefix, *r.request.prompt, *r.tokens.tolist()] for r in responses]
  longest = max(map(len, rows))
  tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
  with torch.no_grad():
    logits = reference(tokens).logits
  for row, scores, response in zip(rows, logits, responses, strict=True):
    start = len(row) - len(response.tokens)
    expected = scores[start - 1 : len(row) - 1].argmax(-1)
    assert response.tokens.tolist() == expected.tolist()


@BOTH_RULES
def test_scores_equal_the_full_forward_pass(llama, responses, rules):
  for request in make_requests():
    response = responses[rules][request.id]
    tokens = response.tokens
    expected = response_log_probs(llama, (*PREFIX, *request.prompt), tokens)
    chosen = np.take_along_axis(expected, tokens[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(response.log_probs, chosen, atol=2e-5)
    dense = np.zeros_like(expected)
    np.put_along_axis(dense, response.top_ids, response.top_log_probs, axis=1)
    np.testing.assert_allclose(dense, expected, atol=2e-5)
    assert (np.diff(response.top_log_probs) <= 0).all()
    if rules is GREEDY:
      assert (response.top_ids[:, 0] == tokens).all()
  likeliest = [(r.top_ids[:, 0] == r.tokens).all() for r in responses[rules].values()]
  assert all(likeliest) == (rules is GREEDY)


@BOTH_RULES
def test_responses_end_at_stop_token_or_limit(responses, rules):
  for request in make_requests():
    response = responses[rules][request.id]
    assert_ends_correctly(response, STOP_IDS, request.max_new_tokens)
  assert {r.finish_reason for r in responses[rules].values()} == {'stop', 'length'}


@BOTH_RULES
@pytest.mark.parametrize('slots', [1, 3, 8])
def test_neighbours_slots_and_order_change_nothing(llama, responses, rules, slots):
  requests = make_requests()
  order = np.random.default_rng(slots).permutation(len(requests))
  actual, _ = decode(llama, [requests[i] for i in order], rules, slots)
  for id, response in responses[rules].items():
    assert_same(actual[id], response)


@BOTH_RULES
def test_schedule_changes_no_bit_with_the_same_slots(llama, responses, rules):
  some, _ = decode(llama, make_requests()[:5:-1], rules)
  for id, response in some.items():
    assert_same(response, responses[rules][id], atol=0)


def test_shared_prefix_changes_nothing(llama, responses):
  whole = [dataclasses.replace(r, prompt=(*PREFIX, *r.prompt)) for r in make_requests()]
  actual, _ = decode(llama, whole, prefix=())
  for id, response in actual.items():
    assert_same(response, responses[GREEDY][id], atol=2e-5)


def test_embeddings_give_the_same_responses_as_tokens(llama, responses):
  table = np.asarray(llama.embed_tokens[...])
  mixed = [
    dataclasses.replace(r, prompt=table[list(r.prompt)]) if number % 2 else r
    for number, r in enumerate(make_requests())
  ]
  actual, _ = decode(llama, mixed)
  for id, response in actual.items():
    assert_same(response, responses[GREEDY][id])


def test_greedy_responses_equal_transformers(tmp_path, torch_thread):
  config = transformers.LlamaConfig(
    **SIZES, initializer_range=0.3, bos_token_id=1, eos_token_id=0
  )
  torch.manual_seed(0)
  reference = transformers.LlamaForCausalLM(config).eval()
  reference.save_pretrained(tmp_path)
  actual, _ = decode(load_llama(tmp_path), make_requests())
  assert_greedy_in_transformers(reference, actual.values(), PREFIX)
  for response in actual.values():
    assert_ends_correctly(response, STOP_IDS, response.request.max_new_tokens)


def test_free_slots_are_refilled_at_once(llama):
  requests = make_requests(120)
  responses, engine = decode(llama, requests)
  statistics = engine.statistics
  assert statistics.tokens == sum(len(r.tokens) for r in responses.values())
  assert statistics.full_tokens / (statistics.full_steps * 3) > 0.97
  assert statistics.tokens <= statistics.steps * 3
  longest_of_batches = [
    max(len(responses[r.id].tokens) for r in requests[start : start + 3])
    for start in range(0, 120, 3)
  ]
  assert statistics.steps < 0.8 * sum(longest_of_batches)


def test_tokens_stream_before_the_requests_end(llama, responses):
  config = EngineConfig(1, prompt_length=20, max_new_tokens=12, rules=GREEDY)
  engine = Engine(llama, config, shared_prefix=PREFIX, seed=3)
  consumed = []

  def requests():
    for request in itertools.chain(make_requests(), make_requests(200)):
      consumed.append(request)
      yield request

  for token in engine.stream(requests()):
    assert len(consumed) < 100
    assert token.id == responses[GREEDY][token.request.id].tokens[0]
    break


@contextlib.contextmanager
def compilations():
  """Yields a list that receives the event of every tracing and compilation."""
  events = []

  def listen(event, seconds, **details):
    del seconds, details
    if event.startswith('/jax/core/compile/'):
      events.append(event.rpartition('/')[2])

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield events
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def test_later_turns_compile_nothing(llama):
  """One engine, as long as the context, serves every turn of a conversation."""
  table = np.asarray(llama.embed_tokens[...])
  rules = DecodeRules(steps=2)
  engine = Engine(llama, EngineConfig(1, 84, 12, rules, prefill_rows=1))

  def converse(*lengths):
    for turn, length in enumerate(lengths):
      tokens = np.random.default_rng(length).integers(0, 53, length)
      [response] = engine.run([Request('turn', table[tokens], seed=turn)])
      log_probs = response_log_probs(llama, tokens.tolist(), response.tokens)
      assert response.tokens.tolist() == log_probs.argmax(-1).tolist()
      yield response

  with compilations() as events:
    first = [*converse(9, 17, 24)]  # buckets 16 and 24
  assert 'backend_compile_duration' in events
  with compilations() as events:
    [*converse(12, 20, 22), *converse(16, 19)]
    again = [*converse(9, 17, 24)]
  assert events == []
  for response, expected in zip(again, first, strict=True):
    assert_same(response, expected, atol=0)
  with compilations() as events:
    [*converse(27)]  # bucket 32
  assert events.count('backend_compile_duration') == 1  # of `prefill` alone


def test_samples_follow_the_distribution(llama):
  requests = [Request(f'{n}', (4, 1, 6), n, max_new_tokens=1) for n in range(4000)]
  rules = DecodeRules(sampling=Sampling(temperature=2.0), steps=4)
  responses, _ = decode(llama, requests, rules, slots=64, prefill_rows=32)
  tokens = [int(response.tokens[0]) for response in responses.values()]
  frequencies = np.bincount(tokens, minlength=SIZES['vocab_size']) / len(tokens)
  [log_probs] = response_log_probs(llama, (*PREFIX, 4, 1, 6), [0])
  np.testing.assert_allclose(frequencies, jax.nn.softmax(log_probs / 2), atol=0.03)


def test_repetition_ends_a_response(llama):
  requests = [dataclasses.replace(r, max_new_tokens=12) for r in make_requests()]
  free, _ = decode(llama, requests, DecodeRules(steps=4))
  actual, _ = decode(llama, requests, DecodeRules(repeats=2, steps=4))

  def repetition_end(tokens):
    """The number of tokens until an n-gram comes twice in a row, or None."""
    for stop in range(1, len(tokens) + 1):
      for n in range(1, min(MAX_NGRAM, stop // 2) + 1):
        if tokens[stop - n : stop] == tokens[stop - 2 * n : stop - n]:
          return stop
    return None

  for id, response in free.items():
    tokens = response.tokens.tolist()
    stop = repetition_end(tokens)
    assert actual[id].tokens.tolist() == tokens[:stop]
    assert actual[id].finish_reason == ('length' if stop is None else 'repetition')
  assert len({response.finish_reason for response in actual.values()}) == 2


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(prompt=()), 'prompt .*0 tokens.* 1 to 20'),
    (dict(prompt=(1,) * 21), 'prompt .*21 tokens.* 1 to 20'),
    (dict(prompt=(53,)), 'prompt .*53.* 53'),
    (dict(prompt=(-1,)), 'prompt .*-1.* 53'),
    (dict(prompt=np.zeros((2, 23))), r'prompt .*\(2, 23\).* 24'),
    (dict(prompt=np.full((2, 24), np.nan)), 'prompt .*finite'),
    (dict(max_new_tokens=13), 'max_new_tokens .*13.* 1 to 12'),
  ],
)
def test_invalid_requests_are_refused(llama, change, message):
  invalid = dataclasses.replace(Request('odd', (1, 2)), **change)
  with pytest.raises(ValueError, match=f"request 'odd': .*{message}"):
    decode(llama, [invalid])


def test_invalid_sizes_are_refused(llama):
  for name in ('slots', 'prompt_length', 'max_new_tokens', 'prefill_rows'):
    sizes = dict(slots=1, prompt_length=1, max_new_tokens=1) | {name: 0}
    with pytest.raises(ValueError, match=f'{name} .*0.* 1'):
      EngineConfig(**sizes)
  with pytest.raises(ValueError, match='90 .*7 .* context .*96'):
    Engine(llama, EngineConfig(1, prompt_length=90, max_new_tokens=7))


@pytest.mark.full
def test_smollm2_knows_paris(tmp_path, torch_thread):
  path = assets.resolve('asset:smollm2-135m-instruct')
  llama, tokenizer = load_llama(path), load_tokenizer(path)
  questions = ['What is the capital of France?', 'Name the third planet.']
  prompts = [list(*chatml([Turn('user', text)], tokenizer)) for text in questions]
  rules = DecodeRules(stop_ids=tokenizer.stop_ids)
  engine = Engine(llama, EngineConfig(2, 48, 12, rules, prefill_rows=2))
  requests = [Request(text, p) for text, p in zip(questions, prompts, strict=True)]
  actual = {response.request.id: response for response in engine.run(requests)}
  save_llama(llama, tmp_path)  # Transformers reads it ten times as fast as the GGUF
  reference = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
  assert_greedy_in_transformers(reference, [actual[text] for text in questions])
  for response in actual.values():
    assert_ends_correctly(response, tokenizer.stop_ids, 12)
  answer = tokenizer.decode(actual[questions[0]].tokens)
  assert answer == 'The capital of France is Paris.'
