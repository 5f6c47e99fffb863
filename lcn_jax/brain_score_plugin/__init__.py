"""Our networks as models of Brain-Score (brainscore_vision).

Brain-Score needs numpy below 2 and current JAX needs more, so features are exchanged as files and
Brain-Score's environment needs nothing of ours but this folder:

1. Copy it to `brainscore_vision/models/lcn_jax` there, and set LCN_BRAIN_SCORE_DIR to a folder with
   an empty folder for each network to score: `lcn_jax_conv`, `lcn_jax_lc`, `lcn_jax_lc_hebbian`.
2. Score one, `lcn_jax_lc` say, on a benchmark, `MajajHong2015public.IT-pls` for example. That stops
   and copies the images whose features it misses to LCN_BRAIN_SCORE_DIR/missing_images.
3. In our environment: `python -m experiments.features --workdir=RUN --images=.../missing_images
   --out=.../lcn_jax_lc/features.npz`. Further files may lie beside it.
4. Score it again.

Where JAX and lcn_jax can be imported beside Brain-Score, LCN_BRAIN_SCORE_DIR/lcn_jax_lc may as well
be a run, the folder that experiments.train wrote, and nothing is to be exchanged.

Regions are assigned to blocks by depth. Behavioural benchmarks read out 'pooled'; those that ask
for labels need a network with the 1000 classes of ImageNet.
"""

from brainscore_vision import model_registry

from .model import commitment

# Written out, for Brain-Score finds models by reading this file.
model_registry['lcn_jax_conv'] = lambda: commitment('lcn_jax_conv')
model_registry['lcn_jax_lc'] = lambda: commitment('lcn_jax_lc')
model_registry['lcn_jax_lc_hebbian'] = lambda: commitment('lcn_jax_lc_hebbian')
