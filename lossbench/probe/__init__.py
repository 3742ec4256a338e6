"""Linear probes on fixed features: a certified path, and the paper's protocol."""
