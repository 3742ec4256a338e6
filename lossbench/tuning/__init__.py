"""The paper's tuning protocol, and the trials it is fed with."""
