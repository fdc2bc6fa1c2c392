# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from acl_jax.training import embedding_ctc, losses

A, S, E, C = 2, 7, 5, 11
NO_CORRECTION = jnp.zeros(C)


@pytest.fixture
def classes():
  return jax.random.normal(jax.random.key(0), (C, E)) * 0.3 + 2.0


@pytest.fixture
def embeddings():
  return jax.random.normal(jax.random.key(1), (A, S, E)) + 1.0


def test_scores_are_squared_distances(classes, embeddings):
  scores = embedding_ctc.embedding_scores(embeddings, classes)
  x, y = np.asarray(embeddings, float), np.asarray(classes, float)
  squared = ((x[:, :, None] - y) ** 2).sum(-1)
  between = ((y[:, None] - y) ** 2).sum(-1).mean()
  expected = -embedding_ctc.CONTRAST * squared / between
  np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_the_embeddings_of_a_transcript_cost_nothing(classes):
  path = jnp.array([[0, 3, 3, 0, 3, 7, 0], [4, 0, 2, 5, 0, 0, 0]])
  labels = jnp.array([[3, 3, 7, 0], [4, 2, 5, 0]])
  mask = jnp.ones((A, S), bool)
  loss, parts = embedding_ctc.loss(classes[path], mask, classes, NO_CORRECTION, labels)
  wrong, _ = embedding_ctc.loss(classes[path], mask, classes, NO_CORRECTION, labels + 1)
  assert loss < 0.5 and wrong > loss + 5 and abs(parts['distance']) < 0.1
  gradient = jax.grad(
    lambda x: embedding_ctc.loss(x, mask, classes, NO_CORRECTION, labels)[0]
  )(classes[path] + 0.05)
  assert jnp.isfinite(gradient).all() and (gradient != 0).any()


def test_loss_is_ctc_and_the_distance_to_the_nearest(classes, embeddings):
  mask = jnp.arange(S)[None] < jnp.array([[S], [4]])
  labels = jnp.array([[3, 9, 0], [1, 0, 0]])
  correction = jnp.linspace(0.0, 1.0, C)
  loss, parts = embedding_ctc.loss(embeddings, mask, classes, correction, labels)
  scores = embedding_ctc.embedding_scores(embeddings, classes)
  scores += jnp.broadcast_to(correction, scores.shape)
  np.testing.assert_allclose(
    parts['ctc_tokens'], losses.ctc(scores, mask, labels), rtol=1e-6
  )
  nearest = -scipy.special.logsumexp(np.asarray(scores, float), axis=-1)
  expected = nearest[np.asarray(mask)].mean() / embedding_ctc.CONTRAST
  np.testing.assert_allclose(parts['distance'], expected, rtol=1e-4)
  np.testing.assert_allclose(loss, parts['ctc_tokens'] + parts['distance'], rtol=1e-6)
  noise = jnp.where(mask[..., None], embeddings, 9.0)
  masked, _ = embedding_ctc.loss(noise, mask, classes, correction, labels)
  assert masked == loss


def test_descent_leads_to_the_embeddings_and_not_beyond(classes):
  """CTC alone would let them grow: it only compares classes with each other."""
  labels, mask = jnp.array([[3, 8, 5]]), jnp.ones((1, 6), bool)
  x = jax.random.normal(jax.random.key(2), (1, 6, E)) * 3

  def loss(x):
    return embedding_ctc.loss(x, mask, classes, NO_CORRECTION, labels)[0]

  descend = jax.jit(lambda x: x - 0.02 * jax.grad(loss)(x))
  for _ in range(3_000):
    x = descend(x)
  scores = embedding_ctc.embedding_scores(x, classes)[0]
  written = [int(i) for i in jnp.argmax(scores, axis=-1)]
  heard = [j for i, j in zip([0, *written], written, strict=False) if j and j != i]
  assert heard == [3, 8, 5]
  distances = jnp.linalg.norm(x[0] - classes[jnp.array(written)], axis=-1)
  typical = jnp.linalg.norm(classes[3] - classes[8])
  assert distances.max() < 0.5 * typical
