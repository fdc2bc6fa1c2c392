# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np

from acl_jax.models.depthwise import depthwise


def test_depthwise_and_its_gradients_equal_the_definition():
  rng = np.random.default_rng(4)
  x, kernel, probe = (
    jnp.asarray(rng.normal(size=shape), jnp.float32)
    for shape in ((2, 9, 6), (5, 6), (2, 9, 6))
  )
  ids = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1] * 9])
  pairs = (ids[:, :, None] == ids[:, None]).astype(jnp.float32)

  def definition(x, kernel):
    time = jnp.arange(9)
    tap = time[None] - time[:, None] + 2  # of the output at t, the tap that reads s
    weights = jnp.where(((tap >= 0) & (tap < 5))[..., None], kernel[tap % 5], 0)
    return jnp.einsum('bts,tsd,bsd->btd', pairs, weights, x)

  y, vjp = jax.vjp(lambda *a: depthwise(*a, ids), x, kernel)
  expected, expected_vjp = jax.vjp(definition, x, kernel)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  for gradient, expected_gradient in zip(vjp(probe), expected_vjp(probe), strict=True):
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)
