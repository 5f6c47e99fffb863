"""Our networks as models of Brain-Score (tried with brainscore_vision 2.4.2 on Python 3.11).

Brain-Score needs numpy below 2 and current JAX needs more, so features are exchanged as files and
Brain-Score's environment (6.5 GB) needs nothing of ours but this folder:

    python3.11 -m venv brainscore
    brainscore/bin/pip install brainscore-vision
    cp -r lcn_jax/integrations/brain_score \\
        brainscore/lib/python3.11/site-packages/brainscore_vision/models/lcn_jax
    export LCN_BRAIN_SCORE_DIR=$PWD/scored   # has a folder for each network, named as below
    brainscore/bin/python -c "import brainscore_vision as b; \\
        print(b.score('lcn_jax_lc', 'MajajHong2015public.V4-pls'))"

That stops and copies the images whose features it misses to scored/missing_images (twice for
benchmarks of behaviour, which fit a readout first). In our environment, as often as it does,

    python -m experiments.features --workdir=RUN --images=scored/missing_images \\
        --out=scored/lcn_jax_lc/features.npz

and score again. Images stay there, so one file serves all benchmarks; further files may lie beside
it.

With a JAX that allows numpy below 2 nothing is to be exchanged, and scored/lcn_jax_lc may as well
be (a link to) a run, the folder that experiments.train wrote:

    brainscore/bin/pip install 'jax<=0.7.1' 'numpy<2' .

Regions are assigned to blocks by depth. Behavioural benchmarks read out 'pooled'; those that ask
for labels need a network with the 1000 classes of ImageNet, and those that shift images from trial
to trial a run. Activations that Brain-Score keeps (in ~/.result_caching) are those of the very
weights or files: their names say which.
"""

from brainscore_vision import model_registry

from .model import commitment

# Written out, for Brain-Score finds models by reading this file.
model_registry['lcn_jax_conv'] = lambda: commitment('lcn_jax_conv')
model_registry['lcn_jax_lc'] = lambda: commitment('lcn_jax_lc')
model_registry['lcn_jax_lc_hebbian'] = lambda: commitment('lcn_jax_lc_hebbian')
