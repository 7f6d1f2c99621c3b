"""What every API is served with."""
