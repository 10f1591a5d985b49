"""What every deadheat process is made of: errors, settings, logs, programs, channels, children."""
