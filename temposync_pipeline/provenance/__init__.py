"""What marks a video as generated: an invisible watermark in its frames, a line in its metadata, signed content credentials."""
