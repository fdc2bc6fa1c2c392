# SPDX-License-Identifier: Apache-2.0
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
STOPS = (19, 23)
KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def llama():
  model = Llama(Config(rope_theta=1e4, **SIZES), rngs=nnx.Rngs(0))
  # Of the size where logits differ enough for a choice to matter.
  return jax.tree.map(lambda w: w * 15, model)


def rows(llama, prompts, length=7, first=0):
  """Prompts as embeddings and `valid`, each beginning at slot `first`."""
  tokens = np.zeros((len(prompts), length), np.int32)
  valid = np.zeros((len(prompts), length), bool)
  for row, prompt in enumerate(prompts):
    tokens[row, first : first + len(prompt)] = prompt
    valid[row, first : first + len(prompt)] = True
  return llama.embed(jnp.asarray(tokens)), jnp.asarray(valid)


def log_probs_at_once(llama, prompt, response):
  """Log-probabilities of all next tokens, without a cache."""
  x, valid = rows(llama, [prompt + response], len(prompt + response))
  t = x.shape[1]
  mask = jnp.tril(jnp.ones((1, t, t), bool))
  hidden, _ = llama(x, jnp.arange(t)[None], mask)
  scores = jax.nn.log_softmax(llama.logits(hidden)[0])
  return np.asarray(scores[len(prompt) - 1 : -1])


def test_equals_transformers(tmp_path):
  config = LlamaConfig(**SIZES, initializer_range=0.3, bos_token_id=1, eos_token_id=19)
  torch.manual_seed(0)
  oracle = LlamaForCausalLM(config).eval()
  oracle.save_pretrained(tmp_path)
  llama = load_llama(tmp_path)
  ours = generate(llama, *rows(llama, PROMPTS), KEY, max_new_tokens=9, stop_ids=STOPS)
  for prompt, tokens, length in zip(PROMPTS, ours.tokens, ours.lengths, strict=True):
    theirs = oracle.generate(
      torch.tensor([prompt]),
      attention_mask=torch.ones(1, len(prompt), dtype=torch.int),
      max_new_tokens=9,
      do_sample=False,
      eos_token_id=list(STOPS),
      pad_token_id=0,
    )
    assert tokens[:length].tolist() == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize('temperature', [0.0, 0.7])
def test_scores_are_those_of_the_full_forward_pass(llama, temperature):
  v = SIZES['vocab_size']
  options = dict(max_new_tokens=9, stop_ids=STOPS, temperature=temperature, top_k=v)
  out = jax.tree.map(np.asarray, generate(llama, *rows(llama, PROMPTS), KEY, **options))
  for row, prompt in enumerate(PROMPTS):
    length = out.lengths[row]
    response = out.tokens[row, :length].tolist()
    expected = log_probs_at_once(llama, prompt, response)
    actual = np.take_along_axis(expected, out.tokens[row, :length, None], axis=1)[:, 0]
    np.testing.assert_allclose(out.log_probs[row, :length], actual, atol=2e-5)
    dense = np.zeros_like(expected)
    ids, scores = out.top_ids[row, :length], out.top_log_probs[row, :length]
    np.put_along_axis(dense, ids, scores, axis=1)
    np.testing.assert_allclose(dense, expected, atol=2e-5)
    assert (np.diff(out.top_log_probs[row, :length]) <= 0).all()
    if temperature == 0:
      assert (out.top_ids[row, :length, 0] == out.tokens[row, :length]).all()


def test_ends_with_the_stop_token_and_zeros_follow(llama):
  x, valid = rows(llama, PROMPTS)
  free = generate(llama, x, valid, KEY, max_new_tokens=9, stop_ids=(), top_k=2)
  assert free.lengths.tolist() == [9, 9, 9]
  stop = int(free.tokens[1, 3])
  out = generate(llama, x, valid, KEY, max_new_tokens=9, stop_ids=(stop,), top_k=2)
  for row, tokens in enumerate(free.tokens.tolist()):
    length = tokens.index(stop) + 1 if stop in tokens else 9
    assert out.lengths[row] == length
    for before, after in zip(free, out, strict=True):
      if before.ndim > 1:
        np.testing.assert_array_equal(after[row, :length], before[row, :length])
        assert not after[row, length:].any()


@pytest.mark.parametrize('temperature', [0.0, 0.7])
def test_content_of_padding_and_holes_changes_nothing(llama, temperature):
  x, valid = rows(llama, PROMPTS, 11, first=2)
  valid = valid.at[:, 3].set(False)  # a hole in the midst of each
  options = dict(max_new_tokens=9, stop_ids=STOPS, temperature=temperature, top_k=3)
  expected = generate(llama, jnp.where(valid[..., None], x, 0), valid, KEY, **options)
  for rubbish in (1e6, jnp.nan, jnp.inf):
    dirty = jnp.where(valid[..., None], x, rubbish)
    actual = generate(llama, dirty, valid, KEY, **options)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_place_of_padding_and_holes_changes_nothing(llama):
  options = dict(max_new_tokens=9, stop_ids=STOPS, top_k=3)
  expected = generate(llama, *rows(llama, PROMPTS), KEY, **options)
  x, valid = rows(llama, PROMPTS)
  slots = np.array([1, 2, 5, 6, 7, 10, 11])  # where the seven go among thirteen
  x = jnp.zeros((3, 13, x.shape[2])).at[:, slots].set(x)
  valid = jnp.zeros((3, 13), bool).at[:, slots].set(valid)
  actual = generate(llama, x, valid, KEY, **options)
  np.testing.assert_array_equal(actual.tokens, expected.tokens)
  np.testing.assert_array_equal(actual.lengths, expected.lengths)
  np.testing.assert_allclose(actual.log_probs, expected.log_probs, atol=2e-5)


def test_with_a_key_per_row_neighbours_do_not_matter(llama):
  options = dict(max_new_tokens=9, stop_ids=STOPS, temperature=1.0)
  keys = jax.random.split(KEY, 3)
  together = generate(llama, *rows(llama, PROMPTS), keys, **options)
  for row, prompt in enumerate(PROMPTS):
    alone = generate(llama, *rows(llama, [prompt]), keys[row : row + 1], **options)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])


def test_samples_follow_the_distribution(llama):
  prompts = [PROMPTS[0]] * 4000
  out = generate(
    llama, *rows(llama, prompts), KEY, max_new_tokens=1, stop_ids=(), temperature=2.0
  )
  counts = np.bincount(out.tokens[:, 0], minlength=SIZES['vocab_size']) / len(prompts)
  scores = log_probs_at_once(llama, PROMPTS[0], [0])[0]
  np.testing.assert_allclose(counts, jax.nn.softmax(scores / 2), atol=0.03)


@pytest.mark.parametrize('temperature', [0.0, 0.7])
def test_stream_yields_what_generate_returns(llama, temperature):
  x, valid = rows(llama, PROMPTS[1:2])
  options = dict(max_new_tokens=9, temperature=temperature)
  free = generate(llama, x, valid, KEY[None], stop_ids=(), **options).tokens[0].tolist()
  assert list(stream(llama, x, valid, KEY, stop_ids=(), **options)) == free
  stops = (free[4],)
  stopped = list(stream(llama, x, valid, KEY, stop_ids=stops, **options))
  assert stopped == free[: free.index(stops[0]) + 1]


def test_computes_in_the_dtype_of_the_prompt(llama):
  x, valid = rows(llama, PROMPTS)
  out = generate(
    llama, x.astype(jnp.bfloat16), valid, KEY, max_new_tokens=3, stop_ids=()
  )
  assert out.log_probs.dtype == jnp.float32
  first = list(
    stream(
      llama, x.astype(jnp.bfloat16)[:1], valid[:1], KEY, max_new_tokens=3, stop_ids=()
    )
  )
  assert first == out.tokens[0].tolist()


def test_a_prompt_beyond_the_context_is_refused(llama):
  with pytest.raises(ValueError, match='7 and 58 new tokens exceed the context of 64'):
    generate(llama, *rows(llama, PROMPTS), KEY, max_new_tokens=58, stop_ids=())


def test_smollm2_knows_paris():
  path = assets.resolve('asset:smollm2-135m-instruct')
  llama, tokenizer = load_llama(path), load_tokenizer(path)
  questions = ['What is the capital of France?', 'Name the third planet.']
  oracle = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()
  prompts = [list(*chatml([Turn('user', text)], tokenizer)) for text in questions]
  x, valid = rows(llama, prompts, 48)
  out = generate(llama, x, valid, KEY, max_new_tokens=12, stop_ids=tokenizer.stop_ids)
  for prompt, tokens, length in zip(prompts, out.tokens, out.lengths, strict=True):
    theirs = oracle.generate(
      torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=2
    )
    assert tokens[:length].tolist() == theirs[0, len(prompt) :].tolist()
  answer = tokenizer.decode(out.tokens[0, : out.lengths[0]])
  assert answer == 'The capital of France is Paris.'
