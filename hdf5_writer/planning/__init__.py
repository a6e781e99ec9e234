"""Which record goes into which row: inputs, their index, the shuffle, the plan."""
