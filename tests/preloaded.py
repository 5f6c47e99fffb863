"""What a process does last before it forks those of `tiny_runs.Fork`."""

import gc

import tensorflow_datasets as tfds

# Imports all builders of tfds, as it does when it first looks for a dataset.
tfds.list_builders(with_community_datasets=False)
gc.freeze()  # no fork looks for garbage among what is imported
