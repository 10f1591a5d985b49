"""Tools for those who work on deadheat; not shipped."""
