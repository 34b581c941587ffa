"""What every command shares: options, outputs, progress, errors."""
