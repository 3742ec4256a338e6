"""The machine and its processes: devices, disks and buckets, consoles, clusters."""
