"""Both cues on the CPU, in tiles that stay in cache."""
