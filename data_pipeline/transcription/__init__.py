# SPDX-License-Identifier: Apache-2.0
"""The parts of `data_pipeline.transcribe`: what is transcribed, results, outputs."""
