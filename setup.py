"""Where the packages lie; everything else is in setup.cfg.

The binaries have the name `experiments` in the repository. A wheel has them inside of lcn_jax
(`lcn_jax/commands.py`): in site-packages, a package `experiments` would take the place of people's
own.
"""

from setuptools import find_packages, setup

binaries = [f'lcn_jax.{name}' for name in find_packages(include=['experiments*'])]
setup(
    packages=find_packages(include=['lcn_jax*']) + binaries,
    package_dir={'lcn_jax.experiments': 'experiments'},
)
