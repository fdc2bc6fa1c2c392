# SPDX-License-Identifier: Apache-2.0
"""From prepared shards to the arrays that a training step consumes."""
