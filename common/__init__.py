"""Modules that the scripts share. Nothing here is a command."""
