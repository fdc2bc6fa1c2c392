# SPDX-License-Identifier: Apache-2.0
"""The model code of exported folders: plain torch, with few parts of Transformers.

Every module but this one is copied into the folder unchanged, so none may depend on JAX
or on this package.
"""
