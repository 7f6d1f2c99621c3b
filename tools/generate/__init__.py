"""What makes inputs and tables: models of random weights, token ids, the table of faults, code of real shapes."""
