"""Networks made of locally connected layers."""
