# SPDX-License-Identifier: Apache-2.0
"""From a corpus as published to batches; knows neither Flax nor acl_jax."""
