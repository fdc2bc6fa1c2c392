# SPDX-License-Identifier: Apache-2.0
"""Text generation: the batch engine, its slots, key/value caches and sampling."""
