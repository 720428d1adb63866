"""The check of a whole volume: inodes, directories and maps, each counted anew."""
