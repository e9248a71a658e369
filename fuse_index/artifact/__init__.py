"""The bundle on disk: manifest, safetensors, checksums, atomic writes, strict load."""
