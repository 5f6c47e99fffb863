"""What computes a layer, on one device and on several."""
