"""Images and labels: sources on disk, and batches made on the device."""
