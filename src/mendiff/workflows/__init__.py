"""What the sub-commands do, one file each; only the command line calls them."""
