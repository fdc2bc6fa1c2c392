# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM

from acl_jax import assets
from acl_jax.decoding.generate import generate, stream
from acl_jax.models.llama import Config, Llama
from acl_jax.text.templates import Turn, chatml
from acl_jax.text.tokenizers import load_tokenizer
from acl_jax.weights.llama import load_llama

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
  max_position_embeddings=64,
)
PROMPTS = ([7, 3, 9, 11, 5, 2, 8], [4, 1, 6], [12, 30, 41, 17, 52])
KEYS = jax.random.split(jax.random.key(0), 3)
# Few combinations of options and shapes: each is a compilation.
GREEDY = dict(max_new_tokens=9, temperature=0.0, top_k=53)
SAMPLED = GREEDY | dict(temperature=0.7)


@pytest.fixture(scope='module')
def llama():
  config = Config(rope_theta=1e4, **SIZES)
  shapes = jax.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(0)
  return jax.tree.map(
    lambda w: jnp.asarray(random.normal(scale=0.3, size=w.shape), w.dtype), shapes
  )


@pytest.fixture(scope='module')
def free(llama):
  """Greedy responses that nothing ends before their time."""
  out = generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=(), **GREEDY)
  return jax.tree.map(np.asarray, out)


@pytest.fixture(scope='module')
def stops(free):
  """A token that ends the second response after four."""
  return (int(free.tokens[1, 3]),)


@pytest.fixture(scope='module')
def stopped(llama, stops):
  return generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=stops, **GREEDY)


def rows(llama, prompts, length=7):
  """Prompts as embeddings and `valid`."""
  tokens = np.zeros((len(prompts), length), np.int32)
  valid = np.zeros((len(prompts), length), bool)
  for row, prompt in enumerate(prompts):
    tokens[row, : len(prompt)] = prompt
    valid[row, : len(prompt)] = True
  return llama.embed(jnp.asarray(tokens)), jnp.asarray(valid)


@jax.jit
def scores(llama, x):
  """Log-probabilities of all next tokens, without a cache."""
  t = x.shape[1]
  mask = jnp.tril(jnp.ones((1, t, t), bool))
  hidden, _ = llama(x, jnp.arange(t)[None], mask)
  return jax.nn.log_softmax(llama.logits(hidden)[0])


def scores_after(llama, prompt, response):
  x, _ = rows(llama, [prompt + response], 16)
  n = len(prompt)
  return np.asarray(scores(llama, x))[n - 1 : n - 1 + len(response)]


def test_equals_transformers(tmp_path, stops):
  config = LlamaConfig(**SIZES, initializer_range=0.3, bos_token_id=1, eos_token_id=0)
  torch.manual_seed(0)
  oracle = LlamaForCausalLM(config).eval()
  oracle.save_pretrained(tmp_path)
  llama = load_llama(tmp_path)
  ours = generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=stops, **GREEDY)
  for prompt, tokens, length in zip(PROMPTS, ours.tokens, ours.lengths, strict=True):
    theirs = oracle.generate(
      torch.tensor([prompt]),
      attention_mask=torch.ones(1, len(prompt), dtype=torch.int),
      max_new_tokens=9,
      do_sample=False,
      eos_token_id=list(stops),
      pad_token_id=0,
    )
    assert tokens[:length].tolist() == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize('options', [GREEDY, SAMPLED], ids=['greedy', 'sampled'])
def test_scores_are_those_of_the_full_forward_pass(llama, options):
  out = generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=(), **options)
  out = jax.tree.map(np.asarray, out)
  assert out.lengths.tolist() == [9, 9, 9]
  for row, prompt in enumerate(PROMPTS):
    expected = scores_after(llama, prompt, out.tokens[row].tolist())
    actual = np.take_along_axis(expected, out.tokens[row, :, None], axis=1)[:, 0]
    np.testing.assert_allclose(out.log_probs[row], actual, atol=2e-5)
    dense = np.zeros_like(expected)
    np.put_along_axis(dense, out.top_ids[row], out.top_log_probs[row], axis=1)
    np.testing.assert_allclose(dense, expected, atol=2e-5)
  assert (np.diff(out.top_log_probs) <= 0).all()
  greedy = (out.top_ids[..., 0] == out.tokens).all()
  assert greedy == (options is GREEDY)


def test_ends_with_the_stop_token_and_zeros_follow(free, stops, stopped):
  assert stopped.lengths[1] <= 4
  for row, tokens in enumerate(free.tokens.tolist()):
    length = tokens.index(*stops) + 1 if stops[0] in tokens else 9
    assert stopped.lengths[row] == length
    for before, after in zip(free, stopped, strict=True):
      if before.ndim > 1:
        np.testing.assert_array_equal(after[row, :length], before[row, :length])
        assert not after[row, length:].any()


def test_padding_and_holes_change_nothing(llama, stops, stopped):
  x, valid = rows(llama, PROMPTS)
  slots = np.array([1, 2, 5, 6, 7, 10, 11])  # where the seven go among thirteen
  valid = jnp.zeros((3, 13), bool).at[:, slots].set(valid)
  outs = []
  for rubbish in (0.0, 1e6, jnp.nan, jnp.inf):
    dirty = jnp.zeros((3, 13, x.shape[2])).at[:, slots].set(x)
    dirty = jnp.where(valid[..., None], dirty, rubbish)
    outs.append(generate(llama, dirty, valid, KEYS, stop_ids=stops, **GREEDY))
  for out in outs[1:]:  # their content: exactly nothing
    jax.tree.map(np.testing.assert_array_equal, out, outs[0])
  # Their place: sums are taken in another order.
  np.testing.assert_array_equal(outs[0].tokens, stopped.tokens)
  np.testing.assert_array_equal(outs[0].lengths, stopped.lengths)
  np.testing.assert_allclose(outs[0].log_probs, stopped.log_probs, atol=2e-5)


@pytest.mark.parametrize('options', [GREEDY, SAMPLED], ids=['greedy', 'sampled'])
def test_neighbours_do_not_matter_and_stream_yields_the_same(llama, options):
  together = generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=(), **options)
  streamed = {k: v for k, v in options.items() if k != 'top_k'}
  for row, prompt in enumerate(PROMPTS):
    x, valid = rows(llama, [prompt])
    alone = generate(llama, x, valid, KEYS[row : row + 1], stop_ids=(), **options)
    tokens = alone.tokens[0].tolist()
    assert tokens == together.tokens[row].tolist()
    assert list(stream(llama, x, valid, KEYS[row], stop_ids=(), **streamed)) == tokens
    stops = (tokens[4],)
    ended = list(stream(llama, x, valid, KEYS[row], stop_ids=stops, **streamed))
    assert ended == tokens[: tokens.index(*stops) + 1]


def test_samples_follow_the_distribution(llama):
  prompts = [PROMPTS[0]] * 4000
  out = generate(
    llama,
    *rows(llama, prompts),
    jax.random.key(0),
    max_new_tokens=1,
    stop_ids=(),
    temperature=2.0,
  )
  counts = np.bincount(out.tokens[:, 0], minlength=SIZES['vocab_size']) / len(prompts)
  expected = jax.nn.softmax(scores_after(llama, PROMPTS[0], [0])[0] / 2)
  np.testing.assert_allclose(counts, expected, atol=0.03)


def test_computes_in_the_dtype_of_the_prompt(llama):
  x, valid = rows(llama, PROMPTS)
  decode = functools.partial(generate, stop_ids=(), **SAMPLED)
  out = jax.eval_shape(decode, llama, x.astype(jnp.bfloat16), valid, KEYS)
  assert out.log_probs.dtype == jnp.float32


def test_a_prompt_beyond_the_context_is_refused(llama):
  options = GREEDY | dict(max_new_tokens=58)
  with pytest.raises(ValueError, match='7 and 58 new tokens exceed the context of 64'):
    generate(llama, *rows(llama, PROMPTS), KEYS, stop_ids=(), **options)


def test_smollm2_knows_paris():
  path = assets.resolve('asset:smollm2-135m-instruct')
  llama, tokenizer = load_llama(path), load_tokenizer(path)
  questions = ['What is the capital of France?', 'Name the third planet.']
  prompts = [list(*chatml([Turn('user', text)], tokenizer)) for text in questions]
  key, stops = jax.random.key(0), tokenizer.stop_ids
  x, valid = rows(llama, prompts, 48)
  ours = generate(llama, x, valid, key, max_new_tokens=12, stop_ids=stops)
  oracle = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
  for prompt, tokens, length in zip(prompts, ours.tokens, ours.lengths, strict=True):
    theirs = oracle.generate(
      torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=stops[0]
    )
    assert tokens[:length].tolist() == theirs[0, len(prompt) :].tolist()
  answer = tokenizer.decode(ours.tokens[0, : ours.lengths[0]])
  assert answer == 'The capital of France is Paris.'
