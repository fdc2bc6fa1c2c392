# SPDX-License-Identifier: Apache-2.0
"""The steps of `data_pipeline.prepare` in order: plan, pipeline, shard, summary."""
