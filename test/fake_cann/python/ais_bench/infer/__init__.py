"""The real package has its code here; by this folder it is told from others of the same name."""
