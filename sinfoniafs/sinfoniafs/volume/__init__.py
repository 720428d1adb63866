"""The semantics of the file system: what each operation does to a volume, and what it relies on."""
