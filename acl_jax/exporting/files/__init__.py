# SPDX-License-Identifier: Apache-2.0
"""The code that an exported folder brings: plain torch on little of Transformers.

Each module but this one is copied into the folder as it stands; there it knows nothing
of JAX and of this package.
"""
