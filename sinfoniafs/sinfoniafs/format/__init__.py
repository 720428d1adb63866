"""What a volume looks like in memory: every address and every byte; FORMAT.md says the same."""
