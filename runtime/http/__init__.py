"""The HTTP surface: requests in, generations out."""
