"""The sleep phase: pools, the sharing rules, and how alike weights are."""

from lcn_jax.sleep.rules import RULES as RULES
from lcn_jax.sleep.rules import TwoPart as TwoPart
from lcn_jax.sleep.rules import circuit as circuit
from lcn_jax.sleep.rules import exact as exact
from lcn_jax.sleep.rules import hebbian as hebbian
from lcn_jax.sleep.rules import low_rank as low_rank
from lcn_jax.sleep.rules import mean as mean
from lcn_jax.sleep.rules import noise as noise
from lcn_jax.sleep.sharing import Rule as Rule
from lcn_jax.sleep.sharing import resolve as resolve
from lcn_jax.sleep.sharing import share as share
