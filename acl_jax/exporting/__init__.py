# SPDX-License-Identifier: Apache-2.0
"""Exported folders: trained models that PyTorch and Transformers load."""
