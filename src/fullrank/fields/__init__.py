"""What one domain of application needs, a module each."""
