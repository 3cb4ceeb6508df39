"""What workflows share: checked data, configs of fits, output folders and locks, progress, measurements."""
