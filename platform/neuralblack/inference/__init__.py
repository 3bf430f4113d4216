"""The forward pass behind every prediction: evaluation, command line and service use the same."""
