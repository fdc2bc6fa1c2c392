# SPDX-License-Identifier: Apache-2.0
"""Evaluate a speech LLM against its own responses to transcripts; write the report."""
