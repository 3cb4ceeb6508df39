"""From files to pictures: which files are images, what their names say, and how they are read."""
