# SPDX-License-Identifier: Apache-2.0
"""Stored responses: their prompts, shards, filters and provenance."""
