"""The soak: campaigns of kills, full disks, pairs of processes and bad inputs, each case seeded; see `scripts/soak`."""
