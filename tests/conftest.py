"""Eight virtual devices for all tests, so that everything is tested across devices."""

import jax

jax.config.update('jax_num_cpu_devices', 8)
