# SPDX-License-Identifier: Apache-2.0
"""From published corpora to batches; imports neither Flax nor acl_jax's models."""
