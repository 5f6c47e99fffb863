"""Weights of other networks and libraries -> local ones, and back."""

from lcn_jax.convert.all_tnn import all_tnn_from_keras as all_tnn_from_keras
from lcn_jax.convert.convlocal import from_convlocal as from_convlocal
from lcn_jax.convert.convlocal import to_convlocal as to_convlocal
from lcn_jax.convert.keras import from_keras as from_keras
from lcn_jax.convert.keras import keras_arguments as keras_arguments
from lcn_jax.convert.keras import keras_weights as keras_weights
from lcn_jax.convert.keras import to_keras as to_keras
from lcn_jax.convert.shared import to_local as to_local
from lcn_jax.convert.shared import to_shared as to_shared
from lcn_jax.convert.unfold import from_unfold as from_unfold
from lcn_jax.convert.unfold import to_unfold as to_unfold
