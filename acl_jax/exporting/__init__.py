# SPDX-License-Identifier: Apache-2.0
"""From a trained model to a folder that PyTorch and Transformers load, and back."""
