"""Our networks as models of Brain-Score (tried with brainscore_vision 2.4.2 on Python 3.11).

docs/brain_score.md says how to install the plugin. This folder is copied into the environment of
Brain-Score, so it imports nothing else of lcn_jax, except to read a run.
"""

from brainscore_vision import model_registry

from .model import commitment

# Written out, because Brain-Score finds models by reading this file.
model_registry['lcn_jax_conv'] = lambda: commitment('lcn_jax_conv')
model_registry['lcn_jax_lc'] = lambda: commitment('lcn_jax_lc')
model_registry['lcn_jax_lc_hebbian'] = lambda: commitment('lcn_jax_lc_hebbian')
