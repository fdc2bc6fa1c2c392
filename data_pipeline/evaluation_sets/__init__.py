# SPDX-License-Identifier: Apache-2.0
"""Texts to evaluate on, written for this project, and the programs that speak them.

`NAME.jsonl` holds the lines of a set, as manifests of `evaluate` do but without audio.
None of the sentences is in the training recipe.
"""
