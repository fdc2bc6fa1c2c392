# SPDX-License-Identifier: Apache-2.0
"""Recordings of any length as embeddings and tokens, all at once or while they last."""
