"""What is in a picture: detection, landmarks, attributes, masks."""
