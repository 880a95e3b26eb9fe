"""What every part of the package may use: command lines, messages, versions."""
