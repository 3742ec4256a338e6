"""What a checkpoint says of data sets: one loop, its suites, stored outputs."""
