"""What measures: speed, load, accuracy, and llama.cpp beside it."""
