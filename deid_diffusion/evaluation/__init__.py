"""Judges what was written to disk: does a folder of outputs hide people, and is it still of use?"""
