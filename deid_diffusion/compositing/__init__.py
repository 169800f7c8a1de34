"""Back into the picture: paste, colour, grain."""
