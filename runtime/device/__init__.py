"""A model's program on its device: one step of a batch."""
