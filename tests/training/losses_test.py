# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acl_jax.models.ctc import BLANK
from acl_jax.training import losses

B, U, V, K = 2, 5, 11, 3
ctc = jax.jit(jax.value_and_grad(losses.ctc))
kl_gradient = jax.jit(jax.value_and_grad(losses.top_k_kl))


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def log_softmax(logits):
  logits = logits.astype(np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def weight():
  return np.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0.5]], np.float32)


def test_cross_entropy_is_in_nats_per_weighted_token():
  logits, w = normal(B, U, V), weight()
  targets = np.random.default_rng(1).integers(0, V, (B, U))
  nll = -np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]
  ours = losses.cross_entropy(*map(jnp.asarray, (logits, targets, w)))
  np.testing.assert_allclose(ours, (nll * w).sum() / w.sum(), rtol=1e-6)


def test_zero_weight_gives_zero_loss():
  weight = jnp.zeros((B, U))
  targets = jnp.zeros((B, U), int)
  assert losses.cross_entropy(jnp.asarray(normal(B, U, V)), targets, weight) == 0


def top_k(logits, k):
  """The ids and log-probabilities of the k likeliest tokens."""
  ids = np.argsort(-logits, axis=-1)[..., :k].astype(np.int32)
  return ids, np.take_along_axis(log_softmax(logits), ids, -1).astype(np.float32)


def kl(teacher, student):
  return (np.exp(teacher) * (teacher - student)).sum(-1)


@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_kl_of_the_whole_vocabulary_equals_the_dense_kl(temperature):
  teacher, student, w = normal(B, U, V, seed=1), normal(B, U, V, seed=2), weight()
  softened = (log_softmax(x / temperature) for x in (teacher, student))
  expected = (kl(*softened) * w).sum() / w.sum() * temperature**2
  arguments = (student, *top_k(teacher, V), w)
  ours = losses.top_k_kl(*map(jnp.asarray, arguments), temperature=temperature)
  np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_top_k_kl_counts_the_remaining_tokens_as_one_outcome():
  teacher, student, w = normal(B, U, V, seed=1), normal(B, U, V, seed=2), weight()
  ids, top = top_k(teacher, K)

  def merge_rest(log_probs):
    likeliest = np.take_along_axis(log_probs, ids, -1)
    rest = np.log1p(-np.exp(likeliest).sum(-1, keepdims=True))
    return np.concatenate([likeliest, rest], -1)

  expected = kl(merge_rest(log_softmax(teacher)), merge_rest(log_softmax(student)))
  ours = losses.top_k_kl(*map(jnp.asarray, (student, ids, top, w)))
  np.testing.assert_allclose(ours, (expected * w).sum() / w.sum(), rtol=1e-5)


def test_kl_of_equal_distributions_and_its_gradient_are_zero():
  logits, w = jnp.asarray(normal(B, U, V)), jnp.asarray(weight())
  ids, top = map(jnp.asarray, top_k(np.asarray(logits), K))
  value, gradient = kl_gradient(logits, ids, top, w)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_kl_of_certain_teacher_and_student_is_finite():
  logits = jnp.asarray(50.0 * np.eye(V)[None, :U], jnp.float32)
  ids, top = map(jnp.asarray, top_k(np.asarray(logits), K))
  ones = jnp.ones((1, U))
  value, gradient = kl_gradient(logits, ids, top, ones)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def torch_ctc(logits, frame_mask, labels):
  """Loss and gradient by PyTorch, nats per label."""
  x = torch.from_numpy(logits).requires_grad_()
  lengths = torch.from_numpy((labels != BLANK).sum(1))
  loss = torch.nn.functional.ctc_loss(
    x.log_softmax(-1).transpose(0, 1),
    torch.from_numpy(labels),
    torch.from_numpy(frame_mask.sum(1)),
    lengths,
    blank=BLANK,
    reduction='none',
  )
  loss = loss[lengths > 0].sum() / max(int(lengths.sum()), 1)
  loss.backward()
  return loss.item(), x.grad.numpy()


def assert_equals_torch(logits, frame_mask, labels):
  value, gradient = ctc(logits, frame_mask, labels)
  loss, expected = torch_ctc(logits, frame_mask, labels)
  np.testing.assert_allclose(value, loss, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_ctc_equals_torch():
  labels = np.asarray([[3, 3, 1, 2, 4, 4], [5, 0, 0, 0, 0, 0], [2, 1, 2, 0, 0, 0]])
  frame_mask = np.arange(17) < np.asarray([17, 9, 3])[:, None]
  assert_equals_torch(2 * normal(3, 17, 7), frame_mask, labels.astype(np.int32))


@given(st.data())
def test_ctc_equals_torch_for_all_labels_that_fit(data):
  rows = data.draw(
    st.lists(
      st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=2, max_size=2
    )
  )
  needed = [len(r) + sum(a == b for a, b in zip(r, r[1:], strict=False)) for r in rows]
  frames = [data.draw(st.integers(n, 8)) for n in needed]
  labels = np.zeros((2, 5), np.int32)
  for row, label in zip(labels, rows, strict=True):
    row[: len(label)] = label
  frame_mask = np.arange(9) < np.asarray(frames)[:, None]
  logits = normal(2, 9, 4, seed=data.draw(st.integers(0, 99)))
  assert_equals_torch(logits, frame_mask, labels)


def test_rows_without_labels_are_padding():
  labels = np.asarray([[3, 1], [0, 0]], np.int32)
  logits, frame_mask = normal(2, 6, 5), np.ones((2, 6), bool)
  both, _ = ctc(logits, frame_mask, labels)
  frame_mask[1] = False
  _, gradient = ctc(logits, frame_mask, labels)
  first, _ = ctc(logits[:1], frame_mask[:1], labels[:1])
  np.testing.assert_allclose(both, first, rtol=1e-6)
  assert not gradient[1].any() and jnp.isfinite(gradient).all()
  assert ctc(logits, frame_mask, 0 * labels)[0] == 0


@pytest.mark.parametrize('padding', [1e6, -1e6])
def test_logits_of_masked_frames_change_nothing(padding):
  labels = np.asarray([[3, 1, 1], [2, 0, 0]], np.int32)
  frame_mask = np.arange(8) < np.asarray([8, 5])[:, None]
  logits = normal(2, 8, 5)
  padded = np.where(frame_mask[..., None], logits, np.float32(padding))
  expected, actual = (ctc(x, frame_mask, labels) for x in (logits, padded))
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_labels_that_do_not_fit_give_a_finite_gradient():
  labels = np.asarray([[3, 3, 3, 3]], np.int32)
  value, gradient = ctc(normal(1, 5, 5), np.ones((1, 5), bool), labels)
  assert value > 1e5 and jnp.isfinite(gradient).all()
