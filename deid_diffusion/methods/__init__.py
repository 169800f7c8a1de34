"""What becomes of a face: one file each."""
