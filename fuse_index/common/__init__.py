"""What every floor needs once: files, progress, option checks, the cache folder."""
