"""Many files: what is done, where it goes, what was done before."""
