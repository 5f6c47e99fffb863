"""What a process does last before it forks those of `tiny_runs.Fork`."""

import tensorflow_datasets as tfds

from tests import garbage

# Imports all builders of tfds, as it does when it first looks for a dataset.
tfds.list_builders(with_community_datasets=False)
garbage.search_seldom()
