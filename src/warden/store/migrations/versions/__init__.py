"""One module per step; `down_revision` chains them."""
