"""The only room that runs programs on devices."""
