# SPDX-License-Identifier: Apache-2.0
"""The steps of `data_pipeline.prepare`: plan, pipeline, shard, summary, in this order."""
