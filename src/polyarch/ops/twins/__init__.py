"""Native twins of the programs an emulated step runs: which there are, and how a step is given them."""
