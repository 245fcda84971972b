"""Raw columns to arrays, alike for training, indexing and serving."""

from tt_jax.features.columns import EncodeError
from tt_jax.features.encoder import Encoder

__all__ = ["EncodeError", "Encoder"]
