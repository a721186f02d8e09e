"""What trains: data, networks, loop, state, checkpoints, samples."""
